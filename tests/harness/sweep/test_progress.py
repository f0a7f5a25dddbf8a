"""Progress whatever the clock says: intervals are of a clock that no one sets."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from vhsbench.harness.store.folder import Folder
from vhsbench.harness.sweep import progress as journal
from vhsbench.harness.sweep.progress import NAME, Journal
from vhsbench.harness.sweep.status import status

EPOCH = 1_800_000_000.0


@pytest.fixture
def clock(monkeypatch):
    """The wall clock and the monotonic one, each set by the test."""
    now = SimpleNamespace(wall=EPOCH, passed=100.0)
    monkeypatch.setattr(journal, "time", SimpleNamespace(time=lambda: now.wall, monotonic=lambda: now.passed))
    return now


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run.json").write_text('{"status": "running", "config": {}}')
    return Folder(tmp_path)


def written(folder):
    return json.loads(folder.read(NAME))["phases"]["candidates"]["done"]


def test_a_clock_set_back_stops_neither_progress_nor_rates(folder, clock, tmp_path):
    kept = Journal(folder, lambda *_: None)
    kept.update("candidates", 0, 10)
    clock.wall -= 3600
    clock.passed += 30
    kept.update("candidates", 3, 10)
    assert written(folder) == 3
    (phase,) = status(tmp_path)["phases"]
    assert phase["per_minute"] == pytest.approx(6)
    assert phase["left_s"] == pytest.approx(70)


def test_a_clock_set_forward_is_no_time_spent(folder, clock, tmp_path):
    kept = Journal(folder, lambda *_: None)
    kept.update("candidates", 2, 10)
    clock.wall += 3600
    clock.passed += 60
    kept.update("candidates", 6, 10)
    (phase,) = status(tmp_path)["phases"]
    assert phase["per_minute"] == pytest.approx(4)  # two were there before


def test_progress_is_written_once_a_second(folder, clock):
    kept = Journal(folder, lambda *_: None)
    kept.update("candidates", 1, 10)
    for done, later in ((2, 0.5), (3, 0.4)):
        clock.passed += later
        kept.update("candidates", done, 10)
        assert written(folder) == 1
    clock.passed += 0.2
    kept.update("candidates", 4, 10)
    assert written(folder) == 4
    kept.update("candidates", 5, 10)
    kept.update("costs", 0, 3)
    assert json.loads(folder.read(NAME))["phases"]["costs"]["of"] == 3, "a phase that takes long has begun"


@pytest.mark.parametrize(("ago_s", "state"), [(10, "running"), (600, "stopped"), (-600, "stopped")])
def test_a_driver_elsewhere_is_gone_when_its_clock_is_far_off(clock, ago_s, state):
    url = f"memory://journal{ago_s}"
    there = Folder(url)
    there.write("run.json", b'{"status": "running", "config": {}}')
    kept = Journal(there, lambda *_: None)
    kept.note(pd.DataFrame())
    kept.update("candidates", 1, 10)
    assert status(url, clock.wall + ago_s)["state"] == state
