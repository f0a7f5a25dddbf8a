"""A device that is not here is told when work starts, before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from vhsbench import generators, verifiers
from vhsbench.generators.protocol import GeneratorError
from vhsbench.harness.cli import app
from vhsbench.harness.config.run import parse
from vhsbench.harness.geneval import detector
from vhsbench.harness.regress.gate_config import GateConfig
from vhsbench.harness.regress.pool import make_pool
from vhsbench.harness.regress.run import regress
from vhsbench.harness.regress.sources import resolve
from vhsbench.harness.report.caption_winners import caption_winners
from vhsbench.harness.sweep import run as sweep
from vhsbench.harness.sweep.run import run
from vhsbench.harness.training.config import load_train_config
from vhsbench.harness.training.data import collect_data
from vhsbench.harness.training.verifier import train

NANO = "generators: [{name: nano}]\n"
OFFICIAL = "prompts: {source: geneval, limit: 2}\n"  # whose classes the detector knows


@pytest.fixture
def nothing_is_loaded(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for module in (generators, verifiers, detector):
        monkeypatch.setattr(module, "create", lambda *_, **__: pytest.fail("a model was loaded"))


def a_training():
    return load_train_config(Path("train-nano-vhs"), ["engine.device=cuda"])


@pytest.mark.parametrize(
    "act",
    [
        lambda out: run(parse(f"{NANO}device: cuda\n", "x"), out),
        lambda out: run(parse(f"{NANO}verifiers: [{{name: vhs, options: {{device: cuda}}}}]\n", "x"), out),
        lambda out: run(
            parse(f"{NANO}{OFFICIAL}detector: {{name: mask2former, options: {{device: cuda}}}}\n", "x"), out
        ),
        lambda out: make_pool(parse(f"{NANO}device: cuda\n", "x"), out),
        lambda out: collect_data(a_training(), out),
        lambda out: train(a_training(), out),
        lambda out: regress(resolve("vhs"), resolve("mllm-ae"), None, GateConfig(device="cuda")),
        lambda out: caption_winners(out, out, device="cuda"),
    ],
)
@pytest.mark.usefixtures("nothing_is_loaded")
def test_a_gpu_that_is_not_here(act, tmp_path):
    with pytest.raises(GeneratorError, match=r"^there is no device 'cuda(:0)?' here: torch finds 0 GPUs\.$"):
        act(tmp_path / "out")


@pytest.mark.usefixtures("nothing_is_loaded")
def test_from_the_command_line_no_run_is_begun_on_a_gpu_that_is_not_here(tmp_path):
    file, out = tmp_path / "run.yaml", tmp_path / "out"
    file.write_text(f"{NANO}device: cuda:99\n")
    said = str(CliRunner().invoke(app, ["run", str(file), "--out", str(out)]).exception)
    assert said == "there is no device 'cuda:99' here: torch finds 0 GPUs."
    assert not list(out.glob("shards/*"))


def test_a_finished_run_needs_no_gpu(faults, tmp_path, monkeypatch):
    """Its report is made anywhere."""
    run(faults.config(limit=2), tmp_path / "run")
    monkeypatch.setattr(sweep, "as_device", lambda _: pytest.fail("it was asked whether the device is here"))
    assert run(faults.config(limit=2), tmp_path / "run") == tmp_path / "run"
