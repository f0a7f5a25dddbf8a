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


def command(*arguments: str) -> str:
    return elsewhere(
        f"sys.argv = ['vhsbench', *{arguments}]\nfrom vhsbench.harness.cli import main\nsys.exit(main())"
    )


def test_plan_answers():
    found = json.loads(command("plan", "--budget", "550ms", "--device", "a100-paper", "--json"))
    n = {r["verifier"]: r["n"] for r in found["plan"] if (r["generator"], r["steps"]) == ("sana-sprint", 1)}
    assert n == {"none": 1, "vhs": 4, "mllm-ae": 3, "mllm-clip": 2}


def test_list_lists():
    assert "sana-sprint" in command("list", "generators")


def test_the_gate_is_read_and_what_reads_runs_is_imported():
    code = f"""
import {", ".join(f"vhsbench.harness.{module}" for module in MODULES)}
from vhsbench.harness.commands.stopping import stopping
with stopping("stopped"):
    print(vhsbench.harness.regress.gate_config.load_gate(None))
"""
    assert elsewhere(code) == f"{load_gate(None)}\n"
