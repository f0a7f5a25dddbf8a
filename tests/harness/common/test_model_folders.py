"""Folders of models of others: what a library would hang on, or build for hours, is refused by file and key."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from vhsbench import generators, harness, verifiers
from vhsbench.generators.nano import WEIGHTS
from vhsbench.generators.protocol import GeneratorError
from vhsbench.harness.common import model_folders
from vhsbench.harness.common.files import ReadError
from vhsbench.harness.common.model_folders import check_files
from vhsbench.harness.common.models import check_tokenizer
from vhsbench.verifiers.checkpoint import CheckpointError

ROOT = Path(harness.__file__).parents[1]
VHS = ROOT / "verifiers/nano/weights/vhs"


def change(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"num_hidden_layers": 10**8},
            r"config\.json: 'num_hidden_layers' is 100,000,000; a model has from -1 to 1,024",
        ),
        ({"vision_config": {"num_layers": 2000}}, "'vision_config.num_layers' is 2,000"),
        ({"hidden_size": 10**9}, "'hidden_size' is 1,000,000,000; a model has from -1 to 16,777,216"),
        ({"vocab_size": 10**12}, "'vocab_size' is 1,000,000,000,000"),
        ({"block_out_channels": [32, 1e300]}, "'block_out_channels' is 1e\\+300;"),
        ({"sample_size": 10**6}, "'sample_size' is 1,000,000; a model has from -1 to 16,384"),
        ({"num_train_timesteps": 10**9}, "'num_train_timesteps' is 1,000,000,000"),
        ({"head_dim": -5}, "'head_dim' is -5"),
        ({"sizes": [float("inf")]}, "'sizes' is inf; a model has"),
    ],
)
def test_absurd_sizes_are_refused_by_key(tmp_path, changes, said):
    (tmp_path / "part").mkdir()
    (tmp_path / "part/config.json").write_text(json.dumps(changes))
    with pytest.raises(ReadError, match=said):
        check_files(tmp_path)


@pytest.mark.parametrize(
    "folder", ["generators/nano", "generators/configs", "verifiers/nano/weights", "results/baselines/nano"]
)
def test_real_configurations_pass(folder):
    check_files(ROOT / folder)


@pytest.mark.parametrize(
    "name", ["config.json", "model_index.json", "tokenizer.json", "chat_template.jinja", "x.bin"]
)
def test_pipes_and_devices_are_refused_unopened(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ReadError, match=rf"{name} is a pipe, not a regular file"):
        check_files(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/zero")
    with pytest.raises(ReadError, match=rf"{name} is a device, not a regular file"):
        check_files(tmp_path)


def test_depth_and_size_are_bounded(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("[" * 1_000_000)
    with pytest.raises(ReadError, match=r"config\.json: nested more than 100 deep"):
        check_files(tmp_path)
    (tmp_path / "config.json").unlink()
    monkeypatch.setattr(model_folders, "BYTES", 1000)
    (tmp_path / "tokenizer.json").write_text(" " * 1001)
    with pytest.raises(ReadError, match=r"tokenizer\.json has 1,001 bytes; at most 1,000 are read"):
        check_files(tmp_path)


def test_a_list_that_is_none_is_told(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"fast_tokenizer_files": 5}')
    with pytest.raises(ReadError, match="'fast_tokenizer_files' is 5, not a list of files"):
        check_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("config.json", {"num_hidden_layers": 10**8}, "'num_hidden_layers' is 100,000,000"),
        ("config.json", {"hidden_size": "128"}, "'hidden_size' is '128', not a whole number from 1"),
        ("config.json", {"hidden_size": 128.5}, r"'hidden_size' is 128\.5, not a whole number"),
        ("config.json", {"vocab_size": 0}, "'vocab_size' is 0, not a whole number from 1"),
        ("config.json", {"num_attention_heads": True}, "'num_attention_heads' is True"),
        ("verifier.json", {"feature_width": "128"}, r"verifier\.json: 'feature_width' is '128'"),
        (
            "verifier.json",
            {"visual_tokens": -1},
            r"verifier\.json: 'visual_tokens' is -1, not a whole number from 0",
        ),
        ("verifier.json", {"template": 5}, r"verifier\.json: 'template' is 5, not text"),
        ("verifier.json", {"kind": ["vhs"]}, r"verifier\.json: 'kind' is \['vhs'\], not text"),
    ],
)
def test_a_verifier_of_absurd_sizes_is_refused_before_it_is_built(tmp_path, name, changes, said):
    folder = shutil.copytree(VHS, tmp_path / "vhs")
    change(folder / name, **changes)
    with pytest.raises(CheckpointError, match=said):
        verifiers.create("vhs", checkpoint=folder)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("transformer/config.json", {"num_layers": 10**8}, "'num_layers' is 100,000,000"),
        ("transformer/config.json", {"num_attention_heads": 0}, "cannot be loaded as a"),
        (
            "scheduler/scheduler_config.json",
            {"num_train_timesteps": 10**10},
            "'num_train_timesteps' is 10,000,000,000",
        ),
    ],
)
def test_a_pipeline_of_absurd_sizes_is_refused_before_it_is_built(tmp_path, name, changes, said):
    folder = shutil.copytree(WEIGHTS, tmp_path / "nano")
    change(folder / name, **changes)
    with pytest.raises(GeneratorError, match=said):
        generators.create("nano", weights=folder)


def test_a_pipe_in_a_pipeline_is_refused_unopened(tmp_path):
    folder = shutil.copytree(WEIGHTS, tmp_path / "nano")
    (folder / "vae/config.json").unlink()
    os.mkfifo(folder / "vae/config.json")
    with pytest.raises(GeneratorError, match=r"vae/config\.json is a pipe, not a regular file"):
        generators.create("nano", weights=folder)
