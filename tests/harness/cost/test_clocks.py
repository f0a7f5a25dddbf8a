from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from vhsbench.harness.cost import clocks
from vhsbench.harness.cost.clocks import interleaved, phases_percent, timed

CPU = torch.device("cpu")


@pytest.fixture
def clock(fake_time, monkeypatch):
    monkeypatch.setattr(clocks, "time", fake_time)
    return fake_time


def test_a_sleep_is_measured_as_long_as_it_is():
    calls = {"long": lambda: time.sleep(0.1), "short": lambda: time.sleep(0.005)}
    found = interleaved(calls, CPU, repeats=5, warm_up=1)
    assert min(found["long"].wall_ms) >= 99.5
    assert 4.5 <= min(found["short"].wall_ms) < min(found["long"].wall_ms)
    assert found["long"].event_ms == [None] * 5  # there are no CUDA events on a CPU
    assert found["long"].taints == [""] * 5


def test_calls_take_turns():
    seen: list[str] = []
    calls = {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}
    interleaved(calls, CPU, repeats=4)
    assert seen == ["a", "b"] * 4


def test_rounds_go_on_for_the_least_time(clock):
    found = interleaved({"a": lambda: clock.sleep(0.25)}, CPU, repeats=2, min_seconds=1.0)["a"]
    assert found.wall_ms == [250.0] * 4


def test_warm_up_lasts_until_rounds_stop_getting_faster(clock):
    pauses = iter([0.08, 0.06, 0.04, 0.01, 0.01, 0.01, 0.02, 0.02, 0.02, 0.5])
    found = interleaved({"a": lambda: clock.sleep(next(pauses))}, CPU, repeats=3, warm_up=2)["a"]
    # four rounds that each beat the last, two that do not; then the three that count
    assert found.wall_ms == pytest.approx([20.0] * 3)
    assert list(pauses) == [0.5]


def test_a_call_out_of_memory_leaves_the_rounds():
    seen = []

    def hungry():
        seen.append(1)
        if len(seen) == 2:
            raise torch.OutOfMemoryError("out of memory\nand more")

    found = interleaved({"hungry": hungry, "fine": lambda: None}, CPU, repeats=4)
    assert len(found["hungry"].wall_ms) == 1
    assert found["hungry"].out_of_memory == "out of memory"
    assert len(found["fine"].wall_ms) == 4
    with pytest.raises(RuntimeError, match="a bug"):
        interleaved({"a": lambda: (_ for _ in ()).throw(RuntimeError("a bug"))}, CPU, repeats=1)


def test_a_gap_between_phases_shows(clock):
    generator = SimpleNamespace(encode=lambda: clock.sleep(0.25), name="g")
    verifier = SimpleNamespace(score=lambda: clock.sleep(0.25), needs="hidden")

    def run(pause):
        def whole(g, v):
            assert (g.name, v.needs) == ("g", "hidden")
            g.encode()
            clock.sleep(pause)
            v.score()

        return phases_percent(generator, verifier, whole, CPU)

    assert run(0.0) == pytest.approx(100)
    assert run(0.5) == pytest.approx(50)


def test_timed_returns_host_time_alone_on_a_cpu():
    wall, event = timed(lambda: time.sleep(0.003), CPU)
    assert wall >= 2.9
    assert event is None
