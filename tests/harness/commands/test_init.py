"""Every start works as it is, and overwrites nothing."""

from __future__ import annotations

import importlib.util
import json
import tomllib

import pytest
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.config.run import load_config
from vhsbench.harness.inference.conformance import check_generator, check_verifier
from vhsbench.harness.regress.gate_config import GateConfig, load_gate


def init(*arguments):
    result = CliRunner().invoke(app, ["init", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["written"]


def made(folder, kind):
    """What the start's factory makes, as its package would register it."""
    about = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    target = about["project"]["entry-points"][f"vhsbench.{kind}s"][f"my-{kind}"]
    module, _, factory = target.partition(":")
    assert about["tool"]["setuptools"]["py-modules"] == [module]
    spec = importlib.util.spec_from_file_location(module, folder / f"{module}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, factory)()


def test_a_run_and_a_gate(tmp_path):
    init("run", tmp_path / "run.yaml")
    config = load_config(tmp_path / "run.yaml")
    assert [v.name for v in config.verifiers] == ["vhs", "mllm-clip"]
    assert config.prompts.limit == 24
    init("gate", tmp_path / "gate.yaml")
    assert load_gate(tmp_path / "gate.yaml") == GateConfig()


def test_a_generator_keeps_the_rules(tmp_path):
    written = init("generator", tmp_path / "mine")
    assert [f.rpartition("/")[2] for f in written] == ["pyproject.toml", "my_generator.py"]
    generator = made(tmp_path / "mine", "generator")
    found = check_generator(generator)
    assert [f.line for f in found if f.outcome != "holds"] == []


def test_a_verifier_keeps_the_rules(tmp_path, nano):
    init("verifier", tmp_path / "mine")
    found = check_verifier(made(tmp_path / "mine", "verifier"), nano)
    assert [f.line for f in found if f.outcome != "holds"] == []


@pytest.mark.parametrize("what", ["run", "gate", "generator", "verifier"])
def test_nothing_is_overwritten(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    written = init(what)
    before = {f: (tmp_path / f).read_text(encoding="utf-8") for f in written}
    result = CliRunner().invoke(app, ["init", what])
    assert result.exit_code != 0
    assert "is there already" in str(result.exception)
    assert {f: (tmp_path / f).read_text(encoding="utf-8") for f in written} == before
