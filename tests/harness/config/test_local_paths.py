"""Paths in a configuration are relative to its file, whatever the working directory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.config.local_paths import Base
from vhsbench.harness.config.run import ConfigError, RunConfig, load_config, parse
from vhsbench.harness.geneval.prompts import single, to_json_lines
from vhsbench.harness.regress.gate_config import load_gate
from vhsbench.harness.sweep.run import run
from vhsbench.harness.training import verifier
from vhsbench.harness.training.config import load_train_config

PATHS = (
    "prompts.jsonl",
    "lora",
    "weights",
    "checkpoint",
    "mean.pt",
    "variance.pt",
    "clip",
    "detector.pth",
    "colors.pt",
)
RUN = """
generators:
- {name: nano, lora: lora, options: {weights: ./weights}}
verifiers:
- name: vhs
  checkpoint: ../project/checkpoint
  options: {normalization: [mean.pt, variance.pt]}
- {name: mllm-clip, options: {clip: clip}}
- {name: mllm-ae, checkpoint: owner/name@v1}
detector: {name: mask2former, options: {checkpoint: detector.pth, colors: colors.pt}}
prompts: {source: prompts.jsonl}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a configuration and all that it names; the working directory is another."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "run.yaml").write_text(RUN)
    for name in PATHS:
        (folder / name).touch()
    (folder / "prompts.jsonl").write_text(to_json_lines([single("star")]))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return folder


def test_what_a_run_names_is_beside_its_file(project):
    config = load_config(project / "run.yaml")
    (nano,), (vhs, clip, ae) = config.generators, config.verifiers
    assert config.prompts.source == str(project / "prompts.jsonl")
    assert (nano.lora, nano.options["weights"]) == (str(project / "lora"), str(project / "weights"))
    assert vhs.checkpoint == str(project / "checkpoint")
    assert vhs.options["normalization"] == [str(project / "mean.pt"), str(project / "variance.pt")]
    assert clip.options["clip"] == str(project / "clip")
    assert ae.checkpoint == "owner/name@v1"
    assert config.detector is not None
    assert config.detector.options == {
        "checkpoint": str(project / "detector.pth"), "colors": str(project / "colors.pt")
    }  # fmt: skip


def test_it_is_the_same_run_from_any_directory_and_through_a_link(project, tmp_path, monkeypatch):
    first = load_config(project / "run.yaml")
    (tmp_path / "link").symlink_to(project)
    assert load_config(tmp_path / "link" / "run.yaml") == first
    for folder, given in (
        (project, "run.yaml"),
        (tmp_path, "project/run.yaml"),
        (tmp_path / "link", "./run.yaml"),
    ):
        monkeypatch.chdir(folder)
        assert load_config(Path(given)) == first


def test_a_run_goes_on_from_another_directory(project, tmp_path, monkeypatch):
    from vhsbench.harness.sweep import run as sweep

    monkeypatch.setattr(sweep, "measure_costs", lambda *_: None)
    text = "generators: [{name: nano}]\nprompts: {source: prompts.jsonl}\npool: 1\ngallery_prompts: 0\n"
    (project / "run.yaml").write_text(text)
    run(load_config(Path("../project/run.yaml")), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["config"]["prompts"]["source"] == str(
        project / "prompts.jsonl"
    )
    monkeypatch.chdir(project)
    assert run(load_config(Path("run.yaml")), tmp_path / "out") == tmp_path / "out"


@pytest.mark.parametrize(
    ("gone", "line", "key"),
    [
        ("prompts.jsonl", 11, "prompts.source"),
        ("lora", 3, "generators.0.lora"),
        ("weights", 3, "generators.0.options.weights"),
        ("checkpoint", 6, "verifiers.0.checkpoint"),
        ("variance.pt", 7, "verifiers.0.options.normalization.1"),
        ("detector.pth", 10, "detector.options.checkpoint"),
    ],
)
def test_what_is_not_there_is_named_by_the_path_that_was_tried(project, gone, line, key):
    (project / gone).unlink()
    file = project / "run.yaml"
    said = (
        f"{file}, line {line}, key '{key}': there is no '{project / gone}'; paths are relative to this file"
    )
    with pytest.raises(ConfigError) as error:
        load_config(file)
    assert str(error.value) == f"{said}."
    Path(gone).touch()  # in the working directory: it is not taken for it, and the sentence says so
    if key != "verifiers.0.checkpoint":  # which is written ../project/checkpoint
        with pytest.raises(ConfigError) as error:
            load_config(file)
        written = f"./{gone}" if gone == "weights" else gone
        assert str(error.value) == f"{said}, not to the working directory, where there is a '{written}'."
    result = CliRunner().invoke(app, ["run", str(file), "--dry-run"])
    assert str(result.exception).startswith(said)


def test_a_folder_in_the_working_directory_is_not_taken_for_a_hub_id(project):
    (project / "run.yaml").write_text(
        "generators: [{name: nano}]\nverifiers: [{name: vhs, checkpoint: my/model}]\n"
    )
    assert load_config(project / "run.yaml").verifiers[0].checkpoint == "my/model"  # the hub's
    Path("my/model").mkdir(parents=True)
    with pytest.raises(ConfigError, match="not to the working directory, where there is a 'my/model'"):
        load_config(project / "run.yaml")
    (project / "my" / "model").mkdir(parents=True)
    assert load_config(project / "run.yaml").verifiers[0].checkpoint == str(project / "my" / "model")


def test_names_and_urls_are_no_paths(project):
    for name in ("nano", "bundled", "random", "openai", "geneval"):
        (project / name).mkdir()
    (project / "run.yaml").write_text(
        "generators: [{name: nano, lora: bundled}, {name: sana-sprint, options: {weights: random}}]\n"
        "verifiers: [{name: vhs, checkpoint: random}, {name: mllm-ae, checkpoint: 's3://bucket/x'}]\n"
        "detector: {name: mask2former, options: {checkpoint: random, colors: openai}}\nprompts: {source: geneval}\n"
    )
    config = load_config(project / "run.yaml")
    assert config == parse((project / "run.yaml").read_text(), "x")


def test_a_bundled_run_names_what_is_in_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    loras = [entry.lora for entry in load_config(Path("table7")).generators]
    assert loras == [None, str(tmp_path / "checkpoints/lora-50"), str(tmp_path / "checkpoints/lora-100")]
    assert load_config(Path("fig5")).verifiers[2].checkpoint == "checkpoints/mllm-ae"  # of the hub's form
    (tmp_path / "checkpoints" / "mllm-ae").mkdir(parents=True)
    assert load_config(Path("fig5")).verifiers[2].checkpoint == str(tmp_path / "checkpoints/mllm-ae")


def test_a_gates_costs_are_beside_it(project):
    gate = project / "gate.yaml"
    gate.write_text("budgets: [550ms]\ncosts: runs/nano\n")
    assert load_gate(gate).costs == str(project / "runs" / "nano")
    gate.write_text("budgets: [550ms]\ncosts: a100-paper\n")
    assert load_gate(gate).costs == "a100-paper"


TRAINING = """
generator: {name: nano}
verifier: {kind: vhs, block: 5, llm: {name: ./llm}}
data: {folder: data, captions: {source: captions.json, images: images}, labels: {prompts: labels.jsonl}}
compare: {prompts: {source: prompts.jsonl}}
ablations:
  other: {verifier: {llm: {name: llm-2}}, data: {rows_of: data}}
"""


@pytest.fixture
def training(project):
    for name in ("llm", "llm-2"):
        (project / name).mkdir()
    (project / "train.yaml").write_text(TRAINING)
    return project / "train.yaml"


def test_a_trainings_paths_are_beside_its_file_and_those_of_its_ablations(training, project):
    config = load_train_config(training)
    assert config.verifier.llm.name == str(project / "llm")
    assert config.data.folder == project / "data"
    assert config.data.captions is not None
    assert (config.data.captions.source, config.data.captions.images) == (
        project / "captions.json", project / "images"
    )  # fmt: skip
    assert config.data.labels.prompts == str(project / "labels.jsonl")
    assert config.compare.prompts.source == str(project / "prompts.jsonl")
    other = config.ablation("other")
    assert (other.verifier.llm.name, other.data.rows_of) == (str(project / "llm-2"), project / "data")


def test_what_the_command_line_sets_is_in_the_working_directory(training, project):
    Path("mine").mkdir()
    config = load_train_config(training, ["verifier.llm.name=mine", "data.train=shards", "seed=3"])
    assert (config.verifier.llm.name, config.data.train) == (
        str(Path("mine").resolve()),
        Path("shards").resolve(),
    )
    assert config.data.folder == project / "data"
    with pytest.raises(
        ConfigError,
        match=r"^--set verifier.clip=./none, key 'verifier.clip': there is no '/.*/elsewhere/none'",
    ):
        load_train_config(training, ["verifier.clip=./none"])


def test_processes_read_the_same_paths_from_the_file_that_they_are_given(
    training, project, tmp_path, monkeypatch
):
    import subprocess

    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 0))
    config = load_train_config(training, ["data.folder=here"])
    variant = config.model_copy(update={"data": config.data.model_copy(update={"train": Path("shards")})})
    verifier._launch(variant, tmp_path / "deep" / "out")
    again = load_train_config(tmp_path / "deep" / "out" / verifier.CONFIG)
    assert again.data.folder == Path("here").resolve()
    assert again.data.train == Path("shards").resolve()
    assert again.verifier.llm.name == str(project / "llm")


def test_what_does_not_fit_is_left_for_the_check_of_types(tmp_path):
    base = Base(tmp_path)
    for data in (
        3,
        None,
        [],
        {"generators": 5},
        {"generators": [7, {"options": [], "lora": {}}]},
        {"prompts": []},
    ):
        assert base.anchored(data, RunConfig) == data
    assert yaml.safe_load(yaml.safe_dump(base.anchored({"generators": [{"lora": os.devnull}]}, RunConfig)))
