"""Compare the scoring time and memory of two verifiers side by side, as candidate over baseline."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from vhsbench.harness.cost.nvml import Gpu, taints
from vhsbench.harness.cost.percentiles import median_interval
from vhsbench.harness.regress.pool import Pool
from vhsbench.harness.stats.intervals import brackets

if TYPE_CHECKING:
    from vhsbench.verifiers.protocol import Verifier

Call = Callable[[], object]


@dataclass(frozen=True)
class Speed:
    """Times in ms per candidate, memory in GB.

    The time ratio is the median over rounds, with its 95% interval (0 to infinity for fewer than six rounds, which
    are too few).

    Rounds in which the GPU was throttled or another process used it are left out: `tainted` of `repeats`, for the
    reasons in `taint`. Times are None if no round is left. Memory is the weights and the peak of what scoring one
    batch allocates on top.
    """

    device: str
    batch: int
    repeats: int
    baseline_ms: float | None
    candidate_ms: float | None
    time_ratio: float | None
    time_low: float | None
    time_high: float | None
    baseline_gb: float
    candidate_gb: float
    memory_ratio: float
    tainted: int = 0
    taint: str = ""


def side_by_side(
    baseline: Verifier, candidate: Verifier, pool: Pool, batch: int, repeats: int, warm_up: int
) -> Speed:
    """Time both on the pool's first candidates: once each a round, in alternating order."""
    from vhsbench.harness.cost.measure import device_name

    gpus = _gpus(baseline, candidate)
    calls = [scoring(v, pool, batch) for v in (baseline, candidate)]
    memory = [_peak_gb(v, call) for v, call in zip((baseline, candidate), calls, strict=True)]
    times: list[list[float]] = [[], []]
    spoiled: list[str] = []
    for turn in range(warm_up + repeats):
        wall_ms = [0.0, 0.0]
        for which in (0, 1) if turn % 2 == 0 else (1, 0):
            wall_ms[which] = _wall_ms(calls[which], baseline)
        if turn < warm_up:
            continue
        if why := "; ".join(reason for gpu in gpus for reason in taints(gpu)):
            spoiled.append(why)
            continue
        for kept, wall in zip(times, wall_ms, strict=True):
            kept.append(wall / batch)
    medians = [float(np.median(kept)) if kept else None for kept in times]
    ratio, low, high = paired_ratio(times[0], times[1]) if times[0] else (None, None, None)
    return Speed(
        device_name(baseline.device), batch, repeats, medians[0], medians[1], ratio, low, high,
        memory[0], memory[1], memory[1] / memory[0], len(spoiled), "; ".join(dict.fromkeys(spoiled)),
    )  # fmt: skip


def _gpus(*verifiers: Verifier) -> list[Gpu]:
    """List the GPUs that the verifiers are on, each once."""
    return [Gpu.of(device) for device in {v.device for v in verifiers}]


def paired_ratio(baseline: ArrayLike, candidate: ArrayLike) -> tuple[float, float, float]:
    """Return (median of candidate / baseline by rounds, low, high), by the order of the rounds' ratios."""
    ratios = np.asarray(candidate, dtype=np.float64) / np.asarray(baseline, dtype=np.float64)
    low, high = median_interval(ratios.tolist()) or (0.0, math.inf)
    return float(np.median(ratios)), low, high


def ratio_interval(low: float | None, high: float | None) -> str:
    """Format a ratio's interval as " [0.95, 1.02]"; an infinite one, of too few rounds, in words."""
    if high is not None and math.isinf(high):
        return " (no interval: fewer than six rounds)"
    return brackets(low, high, ".2f")


def scoring(verifier: Verifier, pool: Pool, batch: int = 1) -> Call:
    """Return a call that scores the pool's first `batch` candidates, which are loaded before."""
    import torch

    prompts: list[str] = []
    rows: list[Any] = []
    for texts, read in pool.batches(verifier.needs, verifier.block):
        prompts.extend(texts)
        rows.extend(read)
        if len(prompts) >= batch:
            break
    texts, reads = prompts[:batch], rows[:batch]
    features = torch.stack(reads).to(verifier.device) if isinstance(reads[0], torch.Tensor) else reads
    return lambda: verifier.score(texts, features)


def _wall_ms(call: Call, verifier: Verifier) -> float:
    _wait(verifier)
    started = time.perf_counter()
    call()
    _wait(verifier)
    return 1e3 * (time.perf_counter() - started)


def _wait(verifier: Verifier) -> None:
    """Wait until its device has finished."""
    if verifier.device.type == "cuda":
        import torch

        torch.cuda.synchronize(verifier.device)


def _peak_gb(verifier: Verifier, call: Call) -> float:
    """Return the weights and the peak of the call's own allocations, by CUDA's counter or torch's profiler on CPU."""
    import torch

    call()  # the first call may build caches
    device = verifier.device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (weights_bytes(verifier) + torch.cuda.max_memory_allocated(device) - before) / 1e9
    return (weights_bytes(verifier) + _allocated_bytes(call)) / 1e9


def _allocated_bytes(call: Call) -> int:
    """Return the peak of torch's own CPU allocations during the call."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it reports missing GPUs otherwise
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()
    steps = [e.nbytes() for e in events if e.name() == "[memory]"]
    return int(np.cumsum([0, *steps]).max())


def weights_bytes(verifier: Verifier) -> int:
    """Count the bytes of all parameters and buffers that the verifier keeps loaded, each once."""
    tensors = {
        t.data_ptr(): t.nbytes
        for module in verifier.modules().values()
        for t in (*module.parameters(), *module.buffers())
    }
    return sum(tensors.values())
