"""Two clocks for every call, rounds over all calls in turn, and phases that must add up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from vhsbench.harness.common.shown import first_line
from vhsbench.harness.cost.memory import is_out_of_memory
from vhsbench.harness.cost.stages import Call, Watched

if TYPE_CHECKING:
    import torch

K = TypeVar("K")

STABLE = 0.05  # warm-up ends when rounds no longer beat the best before them by this share
PHASES_TOLERANCE_PERCENT = 5.0


@dataclass
class Repeats:
    """Times of one call, a repeat each: by the host's clock and by CUDA events (None on CPU).

    `taints` says of each repeat what spoiled its round ("" if nothing did).
    """

    wall_ms: list[float] = field(default_factory=list)
    event_ms: list[float | None] = field(default_factory=list)
    taints: list[str] = field(default_factory=list)
    out_of_memory: str = ""


def timed(call: Call, device: torch.device) -> tuple[float, float | None]:
    """Return (host ms, CUDA event ms or None) of a call, the device idle before and done after."""
    if device.type != "cuda":
        started = time.perf_counter()
        call()
        return 1e3 * (time.perf_counter() - started), None
    import torch

    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    first.record()
    call()
    last.record()
    torch.cuda.synchronize(device)
    return 1e3 * (time.perf_counter() - started), first.elapsed_time(last)


def interleaved(
    calls: Mapping[K, Call],
    device: torch.device,
    *,
    repeats: int,
    min_seconds: float = 0.0,
    warm_up: int = 0,
    taint: Callable[[], str] = lambda: "",
) -> dict[K, Repeats]:
    """Time every call once a round, so that a drift of the machine affects all alike.

    Unmeasured rounds come first, until `warm_up` in a row no longer beat the fastest by 5%. Then
    rounds until there are `repeats` of them and `min_seconds` have passed. `taint` is asked after
    each round. A call that runs out of memory leaves the rounds.
    """
    results: dict[K, Repeats] = {key: Repeats() for key in calls}
    best, idle = float("inf"), 0
    while idle < warm_up:
        total = sum(walls[0] for walls in _round(calls, results, device).values())
        idle = 0 if total < best * (1 - STABLE) else idle + 1
        best = min(best, total)
    started, done = time.perf_counter(), 0
    while done < repeats or time.perf_counter() - started < min_seconds:
        times = _round(calls, results, device)
        spoiled = taint()
        for key, (wall, event) in times.items():
            results[key].wall_ms.append(wall)
            results[key].event_ms.append(event)
            results[key].taints.append(spoiled)
        done += 1
    return results


def _round(
    calls: Mapping[K, Call], results: dict[K, Repeats], device: torch.device
) -> dict[K, tuple[float, float | None]]:
    times = {}
    for key, call in calls.items():
        if results[key].out_of_memory:
            continue
        try:
            times[key] = timed(call, device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            results[key].out_of_memory = first_line(error)
    return times


def phases_percent(
    generator: Any, verifier: Any, run: Callable[[Any, Any], object], device: torch.device
) -> float:
    """Return the stages' share of the time of `run(generator, verifier)`, in percent; 100 if they add up to it."""
    spent_ms = 0.0

    def do(stage: str, call: Callable[[], Any]) -> Any:
        nonlocal spent_ms
        kept: list[Any] = []
        spent_ms += timed(lambda: kept.append(call()), device)[0]
        return kept[0]

    watched = [target and Watched(target, do) for target in (generator, verifier)]
    total_ms, _ = timed(lambda: run(*watched), device)
    return 100 * spent_ms / total_ms
