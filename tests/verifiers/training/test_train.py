"""Both stages: what they leave, what they refuse."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import time

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

from vhsbench import verifiers
from vhsbench.harness.common.atomic import DiskFullError
from vhsbench.verifiers.captioning import captions
from vhsbench.verifiers.checkpoint import CheckpointError
from vhsbench.verifiers.training.data import Data
from vhsbench.verifiers.training.engine import TrainingError
from vhsbench.verifiers.training.log import read
from vhsbench.verifiers.training.losses import LabelError
from vhsbench.verifiers.training.objectives import Captioning
from vhsbench.verifiers.training.shards import ShardDataset, ShardError, read_data_card
from vhsbench.verifiers.training.train import train_verifier

FEW = {"batch": 16, "steps": 2}
CAPTION = {"template": "<image> describe the image"}


@pytest.fixture(scope="module")
def trained(small, data, tmp_path_factory):
    """Enough steps to tell the two kinds of features apart."""
    out = tmp_path_factory.mktemp("trained")
    finetune = small().finetune.model_dump() | {"steps": 60, "validate_every": 15}
    train_verifier(small(finetune=finetune), "nano", data, out)
    return out


def test_it_learns_and_the_best_validation_is_kept(trained):
    rows = [r for r in read(trained) if r["split"] == "validation"]
    best = min(rows, key=lambda r: float(r["loss"]))
    metrics = json.loads((trained / "checkpoint.json").read_text())
    assert metrics["validation_auc"] > 0.95
    assert metrics["best_step"] == int(best["step"])
    assert metrics["validation_loss"] == pytest.approx(float(best["loss"]), rel=1e-4)


def test_the_checkpoint_scores_as_its_card_says(trained, data):
    """The official folder, loaded by path, gives the validation's AUC from features as generated."""
    from vhsbench.verifiers.metrics import auc

    verifier = verifiers.create("vhs", checkpoint=trained / "checkpoint")
    samples = ShardDataset(data.validation)
    features, rows = samples.batch(range(len(samples)))
    scores = verifier.score([r["prompt"] for r in rows], features)
    p = scores.p_yes / (scores.p_yes + scores.p_no)
    metrics = json.loads((trained / "checkpoint.json").read_text())
    assert auc(p, samples.correct) == pytest.approx(metrics["validation_auc"], abs=1e-6)


def test_the_aligned_model_is_a_folder_of_its_own_that_captions(trained, data):
    verifier = verifiers.create("vhs", checkpoint=trained / "aligned")
    assert verifier.card.template == "<image> describe the image"
    features, rows = ShardDataset(data.validation).batch(range(8))
    texts = Captioning(verifier.question, verifier.card.template).texts(rows, 4)
    states = verifier.model.states(texts.before, verifier.tokens(features), texts.after)
    logits = verifier.model.logits(states[torch.arange(8)[:, None], texts.at])
    # ten steps from a vocabulary of 62, where guessing costs log 62 = 4.1
    assert torch.nn.functional.cross_entropy(logits.flatten(0, 1), texts.target.flatten()) < 3.9
    assert len(captions(verifier, features)) == 8


def test_the_model_card_says_from_what(trained, data):
    text = (trained / "checkpoint" / "README.md").read_text()
    metrics = json.loads((trained / "checkpoint.json").read_text())
    for said in (
        "generator's revision | r0", "block 5 (l*, 0-based)", "width of a visual token | 128",
        read_data_card(data.train).sha256(), read_data_card(data.validation).sha256(),
        f"validation_auc | {metrics['validation_auc']:.4g}", "learning_rate: 0.002",
    ):  # fmt: skip
        assert said in text
    assert str(trained) not in text


def test_statistics_are_in_tensorboard_too(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained / "tensorboard" / "finetune"))
    events.Reload()
    rows = [r for r in read(trained) if (r["stage"], r["split"]) == ("finetune", "validation")]
    for key in ("loss", "auc", "accuracy", "ece"):
        shown = [(e.step, e.value) for e in events.Scalars(f"{key}/validation")]
        assert shown == [(int(r["step"]), pytest.approx(float(r[key]), rel=1e-4)) for r in rows]


def test_a_second_call_does_nothing_and_another_recipe_is_refused(small, trained, data):
    before = (trained / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    finetune = small().finetune.model_dump() | {"steps": 60, "validate_every": 15}
    train_verifier(small(finetune=finetune), "nano", data, trained)
    assert (trained / "checkpoint" / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(TrainingError, match="another 'finetune'"):
        train_verifier(small(), "nano", data, trained)


def test_stage_1_trains_the_connector_alone(small, data, tmp_path):
    align = FEW | CAPTION | {"optimizer": {"learning_rate": 1e-2}}
    train_verifier(small(align=align, finetune=FEW), "nano", data, tmp_path / "a")
    train_verifier(small(align=align | {"steps": 1}, finetune=FEW), "nano", data, tmp_path / "b")
    one, two = (load_file(tmp_path / o / "aligned" / "model.safetensors") for o in "ab")
    changed = {k for k in one if not torch.equal(one[k], two[k])}
    assert changed == {k for k in one if k.startswith("model.mm_projector.")}


def test_gradients_of_micro_batches_add_up_with_checkpointing_too(small, data, tmp_path):
    curves = []
    for name, engine in (
        ("whole", {"micro_batch": 16}),
        ("parts", {"micro_batch": 5, "gradient_checkpointing": True}),
    ):
        recipe = small(
            align=None, finetune={"batch": 16, "steps": 4, "optimizer": {"learning_rate": 1e-3}},
            engine=small().engine.model_dump() | engine,
        )  # fmt: skip
        train_verifier(recipe, "nano", data, tmp_path / name)
        curves.append([float(r["loss"]) for r in read(tmp_path / name)])
    assert curves[0] == pytest.approx(curves[1], rel=1e-4)


def test_bf16_and_a_linear_connector_make_a_loadable_checkpoint(small, data, tmp_path):
    engine = small().engine.model_dump() | {"precision": "bf16"}
    verifier = small().verifier.model_dump() | {"connector": "linear", "dtype": "bfloat16"}
    recipe = small(align=FEW | CAPTION, finetune=FEW, engine=engine, verifier=verifier)
    folder = train_verifier(recipe, "nano", data, tmp_path)
    assert load_file(folder / "model.safetensors")["model.mm_projector.weight"].dtype == torch.bfloat16
    loaded = verifiers.create("vhs", checkpoint=folder)
    assert isinstance(loaded.model.connector, torch.nn.Linear)
    assert loaded.score(["a photo of a star"], torch.zeros(1, 4, 128)).p_yes.isfinite().all()


@pytest.mark.parametrize(
    ("card", "said"),
    [
        ({"block": 3}, "of block 3, not of block 5"),
        ({"generator": "sana-sprint"}, "of generator sana-sprint, not of generator nano"),
        ({"steps": 2}, "one-step generation, but the validation shards were made in 2 steps"),
        ({"revision": "r1"}, "validation shards are of revision 'r1' of 'nano', the train shards of 'r0'"),
    ],
)
def test_shards_of_something_else_are_refused(small, data, shards, tmp_path, card, said):
    other = shards(tmp_path / "other", 20, 2, **card)
    with pytest.raises(ShardError, match=said):
        train_verifier(small(), "nano", Data(data.train, other), tmp_path / "out")


def test_prompts_in_both_splits_and_labels_of_one_class_are_refused(small, data, shards, tmp_path):
    with pytest.raises(ShardError, match="is in both train and validation"):
        train_verifier(small(), "nano", Data(data.train, data.train), tmp_path / "out")
    one = shutil.copytree(data.train, tmp_path / "one")
    manifest = json.loads((one / "manifest.json").read_text())
    for shard in manifest["shards"]:
        lines = (one / shard["file"]).with_suffix(".jsonl")
        lines.write_text(lines.read_text().replace('"correct": false', '"correct": true'))
    recipe = small(engine=small().engine.model_dump() | {"verify_data": False})
    with pytest.raises(LabelError, match="all of one class"):
        train_verifier(recipe, "nano", Data(one, data.validation), tmp_path / "out")


def test_an_llm_that_cannot_be_had_is_one_sentence_at_once(small, data, tmp_path, monkeypatch):
    with socket.socket() as taken:  # a port that nothing listens at
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(
            huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}"
        )
        verifier = small().verifier.model_dump() | {"llm": {"name": "Qwen/Qwen2.5-0.5B-Instruct"}}
        pauses = []
        monkeypatch.setattr(time, "sleep", pauses.append)  # the client's, between tries
        with pytest.raises(
            CheckpointError, match=r"the LLM 'Qwen/Qwen2.5-0.5B-Instruct' cannot be loaded"
        ) as e:
            train_verifier(small(verifier=verifier), "nano", data, tmp_path / "out")
        assert pauses == []
    assert "\n" not in str(e.value)


def test_a_loss_that_diverges_is_one_sentence(small, data, tmp_path):
    finetune = {"batch": 16, "steps": 40, "optimizer": {"learning_rate": 1e12, "clip_grad": 1e12}}
    with pytest.raises(TrainingError, match=r"stage 'finetune' is (nan|inf) at step \d+: lower"):
        train_verifier(small(align=None, finetune=finetune), "nano", data, tmp_path)


def weights_in(checkpoint):
    return (checkpoint / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def plain(small, data, tmp_path_factory):
    """The weights of a short training that nothing disturbs."""
    return weights_in(
        train_verifier(small(align=None, finetune=FEW), "nano", data, tmp_path_factory.mktemp("plain"))
    )


def test_a_full_disk_is_one_sentence_and_no_checkpoint(small, data, plain, tmp_path, monkeypatch):
    recipe = small(align=None, finetune=FEW)
    replace = os.replace

    def full(source, target):
        if str(target).endswith("checkpoint"):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DiskFullError, match="is full; make room and run the same command to resume"):
        train_verifier(recipe, "nano", data, tmp_path)
    assert not (tmp_path / "checkpoint").exists()
    monkeypatch.undo()
    assert weights_in(train_verifier(recipe, "nano", data, tmp_path)) == plain


def test_a_state_cut_short_by_a_kill_is_not_read(small, data, plain, tmp_path):
    recipe = small(align=None, finetune=FEW)
    (tmp_path / "state" / "finetune-000000001.tmp").mkdir(parents=True)
    assert weights_in(train_verifier(recipe, "nano", data, tmp_path)) == plain
