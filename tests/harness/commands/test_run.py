"""What run.json says of the command line that made a run."""

from __future__ import annotations

import sys

import pytest

from vhsbench.harness.commands.run import Engine, sweep
from vhsbench.harness.config.run import parse
from vhsbench.harness.store.folder import Folder
from vhsbench.harness.store.tables import read_info
from vhsbench.harness.sweep import run as sweeping


def test_a_run_keeps_its_exact_command_without_secrets(tmp_path, monkeypatch):
    def stop(*_):
        raise RuntimeError("enough")  # a refusal would leave no run.json

    monkeypatch.setattr(sweeping, "local", stop)
    monkeypatch.setattr(
        sys, "argv", ["/usr/bin/vhsbench", "run", "my run.yaml", "--out", "s3://me:word@host/x"]
    )
    config = parse("generators: [nano]\nprompts: {limit: 1}\npool: 1\nthreads: 1\n", "x.yaml")
    with pytest.raises(RuntimeError, match="enough"):
        sweep(config, str(tmp_path / "run"), Engine.local, None, None, None, bars=False)
    info = read_info(Folder(tmp_path / "run"))
    (environment,) = info["environments"]
    assert environment["command"] == "vhsbench run 'my run.yaml' --out s3://...@host/x"
    assert info["status"] == "running"
