from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import torch

from harness.clocks import interleaved, is_out_of_memory, phases_percent, timed

CPU = torch.device("cpu")


def test_a_sleep_is_measured_as_long_as_it_is():
    calls = {"long": lambda: time.sleep(0.02), "short": lambda: time.sleep(0.005)}
    found = interleaved(calls, CPU, repeats=5, warm_up=1)
    assert 19.5 <= min(found["long"].wall_ms) <= 60
    assert 4.5 <= min(found["short"].wall_ms) <= 40
    assert found["long"].event_ms == [None] * 5  # there are no CUDA events on a CPU
    assert found["long"].taints == [""] * 5


def test_calls_take_turns():
    seen: list[str] = []
    calls = {"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}
    interleaved(calls, CPU, repeats=4)
    assert seen == ["a", "b"] * 4


def test_rounds_go_on_for_the_least_time():
    found = interleaved({"a": lambda: time.sleep(0.01)}, CPU, repeats=2, min_seconds=0.1)["a"]
    assert 2 < len(found.wall_ms) <= 10
    assert sum(found.wall_ms) >= 90


def test_warm_up_lasts_until_rounds_stop_getting_faster():
    pauses = iter([0.08, 0.06, 0.04, 0.01, 0.01, 0.01] + [0.01] * 9)
    found = interleaved({"a": lambda: time.sleep(next(pauses))}, CPU, repeats=3, warm_up=2)["a"]
    assert max(found.wall_ms) < 35  # none of the slow ones
    assert len(list(pauses)) == 15 - 3 - 6  # four that each beat the last, two that do not


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


def test_what_is_out_of_memory():
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_a_gap_between_phases_shows():
    generator = SimpleNamespace(encode=lambda: time.sleep(0.02), name="g")
    verifier = SimpleNamespace(score=lambda: time.sleep(0.02), needs="hidden")

    def run(pause):
        def whole(g, v):
            assert (g.name, v.needs) == ("g", "hidden")
            g.encode()
            time.sleep(pause)
            v.score()

        return phases_percent(generator, verifier, whole, CPU)

    assert run(0.0) == pytest.approx(100, abs=4)
    assert run(0.04) == pytest.approx(50, abs=12)


def test_timed_returns_host_time_alone_on_a_cpu():
    wall, event = timed(lambda: time.sleep(0.003), CPU)
    assert wall >= 2.9
    assert event is None
