"""`vhsbench train data`, from configuration to shards."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from vhsbench.generators.nano import LORA
from vhsbench.harness.cli import app
from vhsbench.harness.geneval.shapes import ShapeDetector
from vhsbench.harness.training.collection import DataError
from vhsbench.harness.training.config import TrainConfig
from vhsbench.harness.training.data import collect_data, root_of
from vhsbench.harness.training.data_config import DataConfig
from vhsbench.verifiers.training.shards import ShardDataset, ShardError

NANO = {
    "captioner": {"name": "scene"}, "detector": {"name": "shapes"}, "clip_score": {"model": "nano"},
    "labels": {"prompts": "nano", "limit": 6, "variants": 2, "validation_share": 0.5, "captions": True},
    "batch_size": 8, "shard_size": 8,
}  # fmt: skip


def config(kind="vhs", align=True, **data):
    verifier = {"kind": kind, "llm": {"name": "nano"}} | ({"block": 5} if kind == "vhs" else {})
    made = {"name": "t", "generator": {"name": "nano"}, "verifier": verifier, "data": NANO | data}
    return made if align else made | {"align": None}


def collect(out, **more):
    return collect_data(TrainConfig.model_validate(config(**more)), out)


def test_the_command_collects_all_parts_in_one_pass_and_resumes(tmp_path):
    captions = tmp_path / "captions.json"
    captions.write_text(json.dumps([f"a photo of a {c} star" for c in ("red", "blue", "green")]))
    file = tmp_path / "train.yaml"
    file.write_text(
        json.dumps(config(captions={"source": str(captions)}, reads=["hidden", "latents", "images"]))
    )
    command = ["train", "data", str(file), "--out", str(tmp_path / "out"), "--json"]
    first = CliRunner().invoke(app, command, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    cards = json.loads(first.stdout)
    rows = {"alignment": 3, "train": 12, "validation": 6}
    for part, count in rows.items():
        for kind in ("hidden", "latents", "images"):
            data = ShardDataset(tmp_path / "out" / "data" / kind / part)
            assert len(data) == count == sum(s["rows"] for s in cards[part][kind]["shards"])
            assert all(r["caption"] for r in data.rows)
            assert data.card.metrics["clip_score"] > 0
    train, validation = (ShardDataset(tmp_path / "out/data/hidden" / p) for p in ("train", "validation"))
    assert not {r["prompt"] for r in train.rows} & {r["prompt"] for r in validation.rows}
    assert {r["index"] for r in train.rows} == {0, 1}
    assert 0 < train.card.metrics["correct_percent"] < 100
    before = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("*") if f.is_file()}
    shown = CliRunner().invoke(app, command[:-1], catch_exceptions=False)
    assert before == {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("*") if f.is_file()}
    assert f"{train.card.metrics['correct_percent']:.1f}%" in shown.stdout


def test_another_block_takes_the_rows_of_the_same_images(tmp_path, monkeypatch):
    collect(tmp_path / "base", kind="mllm-ae")
    whole = TrainConfig.model_validate(config())
    collect_data(whole, tmp_path / "alone")
    monkeypatch.setattr(ShapeDetector, "detect", lambda *_: pytest.fail("images were looked at again"))
    cards = collect(tmp_path / "again", rows_of=str(tmp_path / "base" / "data"))
    for part in ("train", "validation"):
        alone, again = (ShardDataset(tmp_path / d / "data/hidden" / part) for d in ("alone", "again"))
        assert cards[part]["hidden"] == alone.card == again.card  # to the byte, by its SHA-256s


def test_data_of_another_lora_at_the_same_path_is_refused(tmp_path):
    lora = tmp_path / "lora.safetensors"
    shutil.copy(LORA / "pytorch_lora_weights.safetensors", lora)
    options = {"name": "nano", "options": {"lora": str(lora), "lora_strength": 0.5}}
    made = TrainConfig.model_validate(config(kind="mllm-ae") | {"generator": options})
    cards = collect_data(made, tmp_path / "out")
    assert cards["train"]["latents"].revision.endswith(f" with LoRA {digest(lora)} at 0.5")
    weights = load_file(lora)
    save_file({name: tensor + 1e-3 for name, tensor in weights.items()}, lora)
    with pytest.raises(ShardError, match="holds a collection with revision"):
        collect_data(made, tmp_path / "out")


def digest(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_rows_of_other_images_are_refused(tmp_path):
    collect(tmp_path / "base", kind="mllm-ae")
    rows_of = str(tmp_path / "base" / "data")
    with pytest.raises(DataError, match=r"its train is of seed 1000001, not 1000017: not the same images"):
        collect_data(TrainConfig.model_validate(config(rows_of=rows_of) | {"seed": 1}), tmp_path / "a")
    with pytest.raises(DataError, match=r"its train is of prompts_sha256"):
        collect(tmp_path / "b", rows_of=rows_of, labels=NANO["labels"] | {"variants": 3})
    with pytest.raises(DataError, match=r"has no finished train; collect it first"):
        collect(tmp_path / "c", rows_of=str(tmp_path))


def test_what_the_verifier_reads_is_among_what_is_collected(tmp_path):
    with pytest.raises(DataError, match=r"data.reads lacks latents, which a mllm-ae reads"):
        collect(tmp_path, kind="mllm-ae", reads=["images"])
    with pytest.raises(DataError, match="hidden states need a block"):
        collect(tmp_path, kind="mllm-ae", reads=["latents", "hidden"])


def test_finished_folders_are_not_collected_again(tmp_path):
    given = {part: str(tmp_path / part) for part in ("train", "validation")}
    assert collect(tmp_path, **given, kind="mllm-ae") == {}
    with pytest.raises(DataError, match="name both or none"):
        collect(tmp_path, train=given["train"])


def test_folders_of_shards(tmp_path):
    data = DataConfig(folder=tmp_path / "d", train=tmp_path / "mine")
    assert data.folders(tmp_path, "latents") == {
        "alignment": tmp_path / "d" / "latents" / "alignment",
        "train": tmp_path / "mine",
        "validation": tmp_path / "d" / "latents" / "validation",
    }
    assert DataConfig().folders(tmp_path, "hidden")["train"] == tmp_path / "data" / "hidden" / "train"


def test_alignment_without_captions_is_told_before_anything_is_made(tmp_path):
    labels = NANO["labels"] | {"captions": False}
    with pytest.raises(DataError, match=r"set data.captions, or data.labels.captions"):
        collect(tmp_path, labels=labels)
    assert not list(tmp_path.iterdir())


def test_no_two_parts_or_seeds_share_noise():
    roots = [root_of(part, seed) for part in ("alignment", "train", "validation") for seed in range(9)]
    assert len(set(roots)) == len(roots)


def test_options_of_captioners_are_checked(tmp_path):
    for captioner, sentence in (
        ({"name": "scene", "options": {"x": 1}}, "'scene' has no options"),
        ({"name": "gemma", "options": {"weight": "x"}}, "has no 'weight'; did you mean 'weights'"),
    ):
        with pytest.raises(ValueError, match=sentence):
            collect(tmp_path, captioner=captioner)


def test_the_scene_captioner_needs_the_shape_detector():
    with pytest.raises(ValueError, match="set detector to it"):
        DataConfig.model_validate({"captioner": {"name": "scene"}})


def test_texts_tagged_by_gemma_that_has_no_weights_of_sense(tmp_path, tiny_gemma):
    """A random Gemma's answers are no tags: every prompt is refused, and listed with its reason."""
    file = tmp_path / "prompts.txt"
    file.write_text("a photo of a star\na photo of a ring\n")
    labels = NANO["labels"] | {
        "prompts": str(file), "tagger": "gemma",
        "tagger_options": {"weights": str(tiny_gemma), "dtype": "float32", "max_new_tokens": 4},
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"gives 0 prompt.s. with metadata"):
        collect(tmp_path / "out", labels=labels)
    assert len(list((tmp_path / "out" / "data").glob("tags-*.json"))) == 1
    refused = [json.loads(x) for x in (tmp_path / "out/data/refused.jsonl").open()]
    assert [r["prompt"] for r in refused] == ["a photo of a star", "a photo of a ring"]
    assert all("is no tag" in r["reason"] for r in refused)


def test_labels_described_by_gemma(tmp_path, tiny_gemma):
    captioner = {
        "name": "gemma",
        "options": {"weights": str(tiny_gemma), "dtype": "float32", "max_new_tokens": 3},
    }
    cards = collect(tmp_path, kind="mllm-clip", captioner=captioner, clip_score=None)
    assert cards["train"]["images"].rows == 12
    captions = [r["caption"] for r in ShardDataset(tmp_path / "data/images/train").rows]
    assert all(c == " ".join(c.split()) for c in captions)
