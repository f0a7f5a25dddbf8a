"""No process of a run outlives its driver, however that ends; one that does is seen when the run goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from vhsbench.harness.store import tables as store
from vhsbench.harness.store.tables import RunStore, StoreError

CONFIG = """
name: long
generators: [{name: nano}]
verifiers: [{name: vhs}]
prompts: {source: nano, split: validation, limit: 1}
pool: 1
bootstrap: 50
gallery_prompts: 0
threads: 1
timing: {best_of_n: [1, 2], repeats: 3, min_seconds: 600}
"""


@pytest.fixture
def measuring(tmp_path, family):
    """A driver of a run that is measuring for a while, with the processes that it started."""
    config, out = tmp_path / "long.yaml", tmp_path / "run"
    config.write_text(CONFIG)
    # where the tests run under nohup, it would ignore a terminal that closes, as it should
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    driver = subprocess.Popen(
        [sys.executable, "-m", "vhsbench.harness.cli", "run", str(config), "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=family.environment,
    )  # fmt: skip
    signal.signal(signal.SIGHUP, before)
    until = time.monotonic() + 240
    while not measures(driver):
        assert driver.poll() is None, driver.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    yield driver, out
    driver.kill()
    driver.wait()


def measures(driver):
    """Whether a process started by the driver's fork server has been at work for a second."""
    try:
        servers = psutil.Process(driver.pid).children()
        return any(p.cpu_times().user > 1 for server in servers for p in server.children())
    except psutil.NoSuchProcess:  # one that ended just now
        return False


def test_kill_9_leaves_no_process_that_measures_on(measuring, family):
    driver, out = measuring
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert family.left() == []
    with RunStore(out, json.loads((out / "run.json").read_text())["config"]):
        pass  # nobody else has it


def test_a_terminal_that_closes_ends_the_run_and_what_it_measures(measuring, family):
    driver, _ = measuring
    os.kill(driver.pid, signal.SIGHUP)
    said = driver.communicate(timeout=120)[1]
    assert driver.returncode == 128 + signal.SIGHUP
    assert "stopped; nothing that was finished is lost: resume with `vhsbench " in said
    assert "Traceback" not in said
    assert family.left() == []


@pytest.fixture
def stranger(tmp_path):
    """A process that holds a run's file, as one that measures does."""
    (tmp_path / "run").mkdir()
    code = (
        "import sys, time; from pathlib import Path; from vhsbench.harness.common.locks import hold\n"
        "held = hold(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run" / store.MEASURING)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_run_that_is_still_being_measured_is_refused_by_the_process(tmp_path, stranger, monkeypatch):
    monkeypatch.setattr(store, "_STRANGER_S", 0.3)
    said = rf"run is still being measured by process {stranger.pid}, .* `kill -9 {stranger.pid}`"
    with pytest.raises(StoreError, match=said):
        RunStore(tmp_path / "run", {})
    assert not (tmp_path / "run" / "run.json").exists()
    stranger.kill()
    with RunStore(tmp_path / "run", {}):
        pass


def test_a_process_that_is_about_to_end_is_waited_for(tmp_path, stranger, monkeypatch):
    monkeypatch.setattr(store, "_STRANGER_S", 60.0)
    stop = subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {stranger.pid}"])
    with RunStore(tmp_path / "run", {}):
        stop.wait()
