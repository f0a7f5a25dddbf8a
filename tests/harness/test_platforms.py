"""What Windows has not: no module of ours that needs no GPU and no other process needs it."""

from __future__ import annotations

import json
import subprocess
import sys

from vhsbench.harness.regress.gate_config import load_gate

# fcntl and resource cannot be imported there, and these names are missing; psutil has a module for each system
ELSEWHERE = """
import os, psutil, signal, sys
sys.modules["fcntl"] = sys.modules["resource"] = None
del os.O_NONBLOCK, os.O_CLOEXEC, signal.SIGHUP, signal.SIGXCPU
"""
MODULES = (
    "report.build",
    "report.combine",
    "regress.gate",
    "regress.run",
    "regress.baselines",
    "sweep.status",
)


def elsewhere(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE + code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_needs_no_gpu_and_no_other_process_runs():
    """One process for all, since loading torch takes seconds."""
    said = elsewhere(f"""
import contextlib, io, json
from vhsbench.harness.cli import app
found = dict()
for line in (["plan", "--budget", "550ms", "--device", "a100-paper", "--json"], ["list", "generators"]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        app(line, standalone_mode=False)
    found[line[0]] = out.getvalue()
import {", ".join(f"vhsbench.harness.{module}" for module in MODULES)}
from vhsbench.harness.commands.stopping import stopping
with stopping("stopped"):
    found["gate"] = str(vhsbench.harness.regress.gate_config.load_gate(None))
print(json.dumps(found))
""")
    found = json.loads(said)
    plan = json.loads(found["plan"])["plan"]
    n = {r["verifier"]: r["n"] for r in plan if (r["generator"], r["steps"]) == ("sana-sprint", 1)}
    assert n == {"none": 1, "vhs": 4, "mllm-ae": 3, "mllm-clip": 2}
    assert "sana-sprint" in found["list"]
    assert found["gate"] == str(load_gate(None))
