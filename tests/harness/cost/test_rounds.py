"""Pipelines in turns: the order, memory that does not hold them all, failures, and other processes at work."""

from __future__ import annotations

import subprocess
import sys
import time

import pandas as pd
import pytest

from vhsbench.harness.cost import load, rounds
from vhsbench.harness.cost.measure import GENERATORS_OWN, Cell, Opened, Passed, Round
from vhsbench.harness.cost.process import Failure
from vhsbench.harness.cost.rounds import VISITS, measure, measure_in_turns, opened_in_turns
from vhsbench.harness.cost.timing import TimingConfig

KEY = ("end_to_end", 1, 1)


def cells(*verifiers, **timing):
    timed = TimingConfig(best_of_n=(1,), **{"repeats": 6, "warm_up": 0} | timing)
    return [Cell("nano", {}, name, {}, "a photo of a star", timed) for name in verifiers]


class World:
    """Stands for the processes that measure: what happens, and what a machine lets happen."""

    def __init__(self):
        self.events, self.alive, self.room_gb, self.others, self.fails = [], set(), 100.0, 0.0, {}

    def process(self, cell, place=None, seconds_left=None, passes=True):
        return Process(self, cell, passes)


class Process:
    seconds_left = 60.0

    def __init__(self, world, cell, passes):
        self.world, self.cell = world, cell
        world.events.append(("open" if passes else "again", cell.verifier))
        failure = world.fails.get((cell.verifier, "open"))
        if failure is not None and (failure.status != "oom" or world.alive):
            raise failure
        world.alive.add(cell.verifier)
        self.opened = Opened("nano", 1, "a CPU", {KEY: Passed()}, {}, [], 10.0, world.room_gb)

    def turn(self, first, count):
        if ("turn", self.cell.verifier) in self.world.fails:
            raise self.world.fails["turn", self.cell.verifier]
        self.world.events.append((first, self.cell.verifier))
        return [Round({KEY: [(1.0, None)]}, others_percent=self.world.others) for _ in range(count)]

    def close(self):
        self.world.alive.discard(self.cell.verifier)


@pytest.fixture
def world(monkeypatch):
    made = World()
    monkeypatch.setattr(rounds, "MeasuringProcess", made.process)
    return made


def test_pipelines_take_turns_in_an_order_that_is_reversed_each_time(world):
    measured = measure_in_turns(cells("a", "b", "c"))
    assert world.events[:3] == [("open", "a"), ("open", "b"), ("open", "c")]
    turns = [name for _, name in world.events[3:]]
    assert turns == ["a", "b", "c", "c", "b", "a"] * 3
    assert not world.alive
    frames = [pd.DataFrame(each.rows) for each in measured]
    assert [frame["visit"].tolist() for frame in frames] == [list(range(6))] * 3
    assert {verifier for frame in frames for verifier in frame["verifier"]} == {"a", "b", "c"}


def test_fewer_turns_have_more_rounds(world):
    measure_in_turns(cells("a", "b", visits=2))
    assert [event for event in world.events if event[0] != "open"] == [(0, "a"), (0, "b"), (3, "b"), (3, "a")]


def test_processes_that_memory_does_not_hold_are_started_again_for_every_turn(world):
    world.room_gb = 12.0  # the next would take 10 of them, and 13 are asked for
    measured = measure_in_turns(cells("a", "b"))
    assert [name for what, name in world.events if what == "again"] == ["a", "b", "b", "a", "a", "b"]
    assert len({row["visit"] for row in measured[0].rows}) == VISITS
    assert len(measured[0].rows) == 6
    assert not world.alive


def test_pipelines_that_are_opened_once_are_measured_as_often_as_is_asked(world):
    with opened_in_turns(cells("a", "b"), passes=False) as measure_them:
        first, second = measure_them(), measure_them()
        assert world.alive == {"a", "b"}
    assert not world.alive
    assert world.events[:2] == [("again", "a"), ("again", "b")]  # without the passes
    for measured in (first, second):
        assert [[row["visit"] for row in each.rows] for each in measured] == [list(range(6))] * 2


def test_one_that_runs_out_of_memory_beside_others_is_measured_alone(world):
    world.fails["b", "open"] = Failure("oom", "CUDA out of memory")
    measured = measure_in_turns(cells("a", "b"))
    assert {row["status"] for each in measured for row in each.rows} == {"ok"}
    assert ("again", "a") in world.events


def test_one_that_fails_leaves_the_others_their_times(world):
    world.fails["turn", "b"] = Failure("timeout", "not done after 5 s")
    world.fails["c", "open"] = Failure("timeout", "not done after 5 s")
    a, b, c = measure_in_turns(cells("a", "b", "c"))
    assert {row["status"] for row in a.rows} == {"ok"}
    for lost in (b, c):
        assert [(row["status"], row["note"], row["wall_ms"]) for row in lost.rows] == [
            ("timeout", "not done after 5 s", None)
        ]


def test_a_loaded_machine_is_given_a_few_more_turns(world):
    world.others = 50.0
    (measured,) = measure_in_turns(cells("a"))
    assert len(measured.rows) == 9  # 1.4 times six turns
    assert {row["others_percent"] for row in measured.rows} == {50.0}
    assert {row["status"] for row in measured.rows} == {"ok"}  # a turn is slower for all alike


def test_progress_ends_where_it_says(world):
    said = []
    measure_in_turns(cells("a", "b"), progress=lambda done, of: said.append((done, of)))
    assert said[-1] == (14, 14)  # two opened, and twelve turns
    assert all(done <= of for done, of in said)
    assert [done for done, _ in said] == sorted(done for done, _ in said)


def test_what_is_its_generators_own_is_left_to_the_cell_without_a_verifier():
    timing = TimingConfig(best_of_n=(1,), repeats=1, warm_up=0)
    shared = measure(Cell("nano", {}, "mllm-ae", {}, "a photo of a star", timing, shares=True))
    alone = measure(Cell("nano", {}, None, {}, "a photo of a star", timing))
    stages = {row["stage"] for row in shared.rows}
    assert stages == {"score", "connector", "llm", "end_to_end"}
    assert {row["stage"] for row in alone.rows} == {*GENERATORS_OWN, "end_to_end"}
    first = shared.about["first_use"]
    assert first["load_s"] > 0
    assert first["first_request_s"] > 0
    assert first["compile_s"] is None


def test_a_busy_process_is_seen_and_an_idle_machine_is_not_accused(monkeypatch):
    """The share of the processors that this process may use, by what the system counts."""
    clock, busy, own = [0.0], [0.0], [0.0]
    monkeypatch.setattr(load.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(load.time, "process_time", lambda: own[0])
    monkeypatch.setattr(load, "_allowed", lambda: [0, 1])
    each = type("Times", (), {"user": property(lambda self: busy[0] / 2)})
    monkeypatch.setattr(load.psutil, "cpu_times", lambda percpu: [each(), each(), each()])
    watched = load.OthersLoad()
    clock[0], busy[0], own[0] = 2.0, 3.0, 1.0
    assert watched.percent() == pytest.approx(50.0)  # 2 of 4 seconds of two processors
    clock[0], busy[0], own[0] = 2.0, 1.0, 1.0
    assert watched.percent() == 0.0
    clock[0] = 0.1
    assert watched.percent() is None


def test_a_real_neighbour_is_seen():
    def seen():
        watched = load.OthersLoad()
        time.sleep(0.5)
        return watched.percent() > load.LOADED_PERCENT

    busy = [subprocess.Popen([sys.executable, "-Sc", "while True: pass"]) for _ in range(2)]
    try:
        assert any(seen() for _ in range(60))  # they may take a while to start
    finally:
        for process in busy:
            process.kill()
            process.wait()
