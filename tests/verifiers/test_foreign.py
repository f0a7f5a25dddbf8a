"""Checkpoints that others made: no code of theirs runs, no file beside theirs is read, and weights are finite floats."""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, CLIPVisionModel
from typer.testing import CliRunner

from vhsbench import verifiers
from vhsbench.harness.cli import app
from vhsbench.verifiers.checkpoint import CheckpointError
from vhsbench.verifiers.clip import OFFICIAL, load_tower
from vhsbench.verifiers.nano import WEIGHTS
from vhsbench.verifiers.training.build import build
from vhsbench.verifiers.training.recipe import LlmRecipe, VerifierRecipe

NAN, INF = float("nan"), float("inf")
CPU = torch.device("cpu")
MINE = "import pathlib\npathlib.Path({marker!r}).write_text('it ran')\nclass Mine:\n    from_pretrained = print\n"


@pytest.fixture
def checkpoint(tmp_path):
    """checkpoint(kind): a copy of a bundled folder, in a folder that has a sibling."""

    def copy(kind="vhs"):
        shutil.copytree(WEIGHTS / kind, tmp_path / "models" / kind)
        return tmp_path / "models" / kind

    return copy


@pytest.fixture
def with_code(change_json):
    """Gives a folder an `auto_map` in one of its files, and the module it names; returns what that would write."""

    def add(folder, file, auto_map, **values):
        marker = folder.parent / "marker"
        (folder / "mine.py").write_text(MINE.format(marker=str(marker)))
        change_json(folder / file, auto_map=auto_map, **values)
        return marker

    return add


# code


def test_a_tokenizer_that_is_code_is_one_sentence(with_code, checkpoint, asked, capfd):
    folder = checkpoint()
    ran = with_code(
        folder, "tokenizer_config.json", {"AutoTokenizer": ["mine.Mine", None]}, tokenizer_class="Mine"
    )
    with pytest.raises(
        CheckpointError, match="needs code of its own, and code that comes with a model is never run"
    ):
        verifiers.create("vhs", checkpoint=folder)
    assert (asked, capfd.readouterr().out, ran.exists()) == ([], "", False)
    assert "mine" not in sys.modules


@pytest.mark.parametrize(
    ("file", "auto_map"),
    [
        (
            "config.json",
            {"AutoConfig": "mine.Mine", "AutoModel": "mine.Mine", "AutoTokenizer": ["mine.Mine", None]},
        ),
        ("tokenizer_config.json", {"AutoTokenizer": ["mine.Mine", None]}),  # of a class that transformers has
    ],
)
def test_code_that_is_not_needed_is_not_run_and_changes_nothing(
    with_code, checkpoint, asked, capfd, file, auto_map
):
    folder = checkpoint()
    hidden = torch.randn(2, 64, 128, generator=torch.Generator().manual_seed(0))
    before = verifiers.create("vhs", checkpoint=folder).score(["a red circle", "two stars"], hidden)
    ran = with_code(folder, file, auto_map)
    after = verifiers.create("vhs", checkpoint=folder).score(["a red circle", "two stars"], hidden)
    assert torch.equal(before.score, after.score)
    assert (asked, capfd.readouterr().out, ran.exists()) == ([], "", False)


@pytest.mark.parametrize(("part", "key"), [("text_cfg", "hf_model_name"), ("vision_cfg", "timm_model_name")])
def test_a_tower_of_ours_names_no_other_model(with_code, change_json, tmp_path, asked, part, key):
    shutil.copytree(WEIGHTS / "clip", tmp_path / "clip")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "config.json").write_text('{"model_type": "x"}')
    with_code(tmp_path / "text", "config.json", {"AutoConfig": "mine.Mine"})
    config = tmp_path / "clip" / "open_clip_config.json"
    given = json.loads(config.read_text())
    change_json(config, **{part: given[part] | {key: str(tmp_path / "text")}})
    with pytest.raises(
        CheckpointError, match=f"open_clip_config.json has '{key}', a model that is elsewhere"
    ):
        load_tower(tmp_path / "clip", CPU, torch.float32)
    assert asked == []


def test_the_command_neither_asks_nor_runs(with_code, checkpoint, tmp_path):
    folder = checkpoint()
    ran = with_code(
        folder, "tokenizer_config.json", {"AutoTokenizer": ["mine.Mine", None]}, tokenizer_class="Mine"
    )
    save_file({"features": torch.zeros(1, 64, 128)}, tmp_path / "hidden.safetensors")
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    arguments = ["--prompts", tmp_path / "prompts.txt", "--features", tmp_path / "hidden.safetensors"]
    said = CliRunner().invoke(
        app, ["score", "vhs", *map(str, arguments), "--checkpoint", str(folder)], input="y\n"
    )
    assert said.exit_code != 0
    assert said.stdout == ""
    assert isinstance(said.exception, CheckpointError)
    assert not ran.exists()


def test_an_llm_to_train_that_is_code_is_one_sentence(with_code, official, asked, capfd):
    folder = official(4)
    recipe = VerifierRecipe.model_construct(
        kind="mllm-ae", llm=LlmRecipe.model_construct(name=str(folder), revision=None), connector="mlp2x_gelu"
    )
    card = verifiers.create("mllm-ae").card
    build(recipe, card, 0)
    ran = with_code(
        folder, "tokenizer_config.json", {"AutoTokenizer": ["mine.Mine", None]}, tokenizer_class="Mine"
    )
    with pytest.raises(CheckpointError, match="cannot be loaded as a Qwen2: it needs code of its own"):
        build(recipe, card, 0)
    assert (asked, capfd.readouterr().out, ran.exists()) == ([], "", False)


# files


@pytest.mark.parametrize("place", ["../outside.safetensors", "{root}/outside.safetensors"])
def test_an_index_that_leads_out_is_refused(checkpoint, place):
    folder = checkpoint()
    outside = folder.parent / "outside.safetensors"
    (folder / "model.safetensors").rename(outside)
    keys = load_file(outside)
    name = place.format(root=folder.parent)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(keys, name)})
    )
    with pytest.raises(
        CheckpointError, match=r"index\.json: '.*' names '.*outside\.safetensors', but only files"
    ):
        verifiers.create("vhs", checkpoint=folder)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "normalization.safetensors"])
def test_a_link_that_leads_out_is_refused(checkpoint, file):
    folder = checkpoint()
    (folder / file).rename(folder.parent / file)
    (folder / file).symlink_to(folder.parent / file)
    with pytest.raises(CheckpointError, match=f"{file} is a link out of its folder"):
        verifiers.create("vhs", checkpoint=folder)


def test_a_key_in_two_shards_is_refused(official):
    folder = official(4, {"mm_vision_tower": "dc-ae"}, shards=2)
    one, two = sorted(folder.glob("model-*.safetensors"))
    tensors, key = load_file(two), next(iter(load_file(one)))
    save_file(tensors | {key: torch.zeros(1)}, two)
    with pytest.raises(CheckpointError, match=f"both have the key '{key}'"):
        verifiers.create("mllm-ae", checkpoint=folder)


def test_a_tokenizer_file_elsewhere_is_refused(change_json, checkpoint):
    folder = checkpoint()
    (folder / "tokenizer.json").rename(folder.parent / "tokenizer.4.0.0.json")
    change_json(folder / "tokenizer_config.json", fast_tokenizer_files=["../tokenizer.4.0.0.json"])
    with pytest.raises(CheckpointError, match="only files directly in the same folder"):
        verifiers.create("vhs", checkpoint=folder)


@pytest.mark.parametrize("place", ["../clip", "{root}/clip", "sub/../../clip"])
def test_a_vision_tower_elsewhere_is_refused(change_json, checkpoint, place, monkeypatch):
    folder = checkpoint("mllm-clip")
    (folder / "sub").mkdir()
    shutil.copytree(WEIGHTS / "clip", folder.parent / "clip")
    change_json(folder / "verifier.json", vision_tower=place.format(root=folder.parent))
    monkeypatch.chdir(folder)
    with pytest.raises(CheckpointError, match=r"vision tower"):
        verifiers.create("mllm-clip", checkpoint=folder)


def test_the_hash_covers_the_vision_tower_wherever_it_is(change_json, checkpoint, tmp_path):
    folder = checkpoint("mllm-clip")
    shutil.copytree(WEIGHTS / "clip", tmp_path / "clip")
    first = verifiers.create("mllm-clip", checkpoint=folder)
    assert verifiers.create("mllm-clip", checkpoint=folder, clip=tmp_path / "clip").checkpoint_sha256 == (
        first.checkpoint_sha256
    )
    weights = tmp_path / "clip" / "open_clip_model.safetensors"
    tensors = load_file(weights)
    tensors["logit_scale"] += 1
    save_file(tensors, weights)
    second = verifiers.create("mllm-clip", checkpoint=folder, clip=tmp_path / "clip")
    assert second.checkpoint_sha256 != first.checkpoint_sha256
    shutil.copytree(tmp_path / "clip", folder / "clip")
    change_json(folder / "verifier.json", vision_tower="clip")
    inside = verifiers.create("mllm-clip", checkpoint=folder).checkpoint_sha256
    tensors["logit_scale"] += 1
    save_file(tensors, folder / "clip" / "open_clip_model.safetensors")
    assert verifiers.create("mllm-clip", checkpoint=folder).checkpoint_sha256 != inside


def test_a_pickled_tower_is_in_the_hash(official, tmp_path):
    tower = CLIPVisionModel(SMALL_TOWER)
    tower.save_pretrained(tmp_path / "tower")
    state = load_file(tmp_path / "tower" / "model.safetensors")
    (tmp_path / "tower" / "model.safetensors").unlink()
    folder = official(48, {"mm_vision_tower": OFFICIAL, "mm_vision_select_feature": "patch"})
    hashes = set()
    for offset in (0, 1):
        key = next(k for k in state if k.endswith("post_layernorm.bias"))
        torch.save(state | {key: state[key] + offset}, tmp_path / "tower" / "pytorch_model.bin")
        hashes.add(
            verifiers.create("mllm-clip", checkpoint=folder, clip=tmp_path / "tower").checkpoint_sha256
        )
    assert len(hashes) == 2


# weights

SMALL_TOWER = CLIPVisionConfig(
    hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=28,
    patch_size=14, projection_dim=8,
)  # fmt: skip
WRONG = [
    (lambda t: t.fill_(NAN), "holds NaN or infinite numbers"),
    (lambda t: t.fill_(INF), "holds NaN or infinite numbers"),
    (lambda t: t.long(), "holds I64, but weights are"),
    (lambda t: t.to(torch.complex64), "holds C64, but weights are"),
    (lambda t: t.to(torch.float8_e4m3fn), "holds F8_E4M3, but weights are"),
]
STATISTICS = [
    (wrong, said.replace("I64", "int64").replace("C64", "complex64").replace("F8_E4M3", "float8_e4m3fn"))
    for wrong, said in WRONG
]


def spoil(file, key, wrong):
    tensors = load_file(file)
    tensors[key] = wrong(tensors[key].clone())
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(("wrong", "said"), WRONG)
@pytest.mark.parametrize("key", ["model.mm_projector.0.bias", "model.layers.1.mlp.up_proj.weight"])
def test_weights_that_are_no_finite_floats_are_refused_by_file_and_key(official, wrong, said, key):
    folder = official(4, {"mm_vision_tower": "dc-ae"}, shards=2)
    file = next(f for f in sorted(folder.glob("model-*")) if key in load_file(f))
    spoil(file, key, wrong)
    with pytest.raises(CheckpointError, match=f"{file.name}: '{key}' {said}"):
        verifiers.create("mllm-ae", checkpoint=folder)


def test_weights_that_no_half_can_hold_are_refused(official):
    folder = official(4, {"mm_vision_tower": "dc-ae"})
    spoil(folder / "model.safetensors", "model.norm.weight", lambda t: t.fill_(1e6))
    verifiers.create("mllm-ae", checkpoint=folder, dtype="bfloat16")
    with pytest.raises(
        CheckpointError, match=r"model\.norm\.weight' is not finite as float16; load it as bfloat16"
    ):
        verifiers.create("mllm-ae", checkpoint=folder, dtype="float16")


@pytest.mark.parametrize(("wrong", "said"), STATISTICS)
@pytest.mark.parametrize("key", ["mean", "variance"])
def test_statistics_that_are_no_finite_floats_are_refused(checkpoint, key, wrong, said):
    folder = checkpoint()
    spoil(folder / "normalization.safetensors", key, wrong)
    with pytest.raises(CheckpointError, match=f"normalization.safetensors: '{key}' {said}"):
        verifiers.create("vhs", checkpoint=folder)


def test_a_negative_variance_is_refused(checkpoint):
    folder = checkpoint()
    spoil(folder / "normalization.safetensors", "variance", torch.neg)
    with pytest.raises(CheckpointError, match="not a finite mean and a variance of at least 0"):
        verifiers.create("vhs", checkpoint=folder)


@pytest.mark.parametrize(("wrong", "said"), STATISTICS)
def test_a_tower_of_ours_with_no_finite_floats_is_refused(tmp_path, wrong, said):
    shutil.copytree(WEIGHTS / "clip", tmp_path / "clip")
    spoil(tmp_path / "clip" / "open_clip_model.safetensors", "visual.proj", wrong)
    with pytest.raises(CheckpointError, match=f"open_clip_model.safetensors: 'visual.proj' {said}"):
        load_tower(tmp_path / "clip", CPU, torch.float32)


@pytest.mark.parametrize(("wrong", "said"), WRONG)
@pytest.mark.parametrize("pickled", [False, True])
def test_a_clip_with_no_finite_floats_is_refused(tmp_path, wrong, said, pickled):
    CLIPVisionModel(SMALL_TOWER).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    key = next(k for k in load_file(file) if k.endswith("post_layernorm.weight"))
    spoil(file, key, wrong)
    if pickled:
        torch.save(load_file(file), tmp_path / "pytorch_model.bin")
        file.unlink()
        said = said.replace("I64", "int64").replace("C64", "complex64").replace("F8_E4M3", "float8_e4m3fn")
        file = tmp_path / "pytorch_model.bin"
    with pytest.raises(CheckpointError, match=f"{file.name}: '{key}' {said}"):
        load_tower(tmp_path, CPU, torch.float32)
