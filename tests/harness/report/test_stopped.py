"""A report that is stopped says so, exits with the signal's code, and leaves no half file."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

ROOT = Path(__file__).parents[3]
PROGRAM = (
    "from vhsbench.harness.cli import main\n"
    "from vhsbench.harness.sweep import run\n"
    "run.run = lambda *_, **__: None  # it is done\n"
    "main()\n"
)


@pytest.mark.parametrize(("command", "number"), [("run", signal.SIGTERM), ("report", signal.SIGINT)])
def test_a_stopped_report_says_a_word(made, tmp_path, command, number):
    run = shutil.copytree(made, tmp_path / "run")
    arguments = (
        ["run", "nano", "--out", str(run)] if command == "run" else ["report", str(run), "--published"]
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments], env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    while not list((run / "figures").glob("*.png")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(process.pid, number)
    printed, said = process.communicate()
    assert process.returncode == 128 + number
    again = f"vhsbench report {run}{' --published' if command == 'report' else ''}"
    assert said.strip().splitlines()[-1] == (
        f"stopped while the report was made; no measurement is lost: make it with `{again}`."
    )
    assert "Traceback" not in said
    assert printed == ""
    assert not (run / "report.html").exists()
    assert list(run.rglob("*.tmp")) == []
    for file in run.rglob("*.png"):
        with Image.open(file) as image:
            image.load()
    assert all(file.read_bytes().endswith(b"%%EOF\n") for file in run.rglob("*.pdf"))
    assert all(len(pd.read_csv(file)) for file in run.rglob("*.csv"))
    assert (run / "scores.parquet").read_bytes() == (made / "scores.parquet").read_bytes()
