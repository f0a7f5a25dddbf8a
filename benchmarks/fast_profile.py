"""What the GPU does in a batch of candidates, stage by stage: the profile of benchmarks/fast.py."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from full_size import PROMPT
from torch.profiler import ProfilerActivity, profile

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.cost.clocks import timed
from vhsbench.harness.inference.route import STAGES, route_of

_TOP = 25  # kernels of a stage


def profiled(pair: Any, size: int, file: Path) -> dict[str, Any]:
    """Write which kernels take the time of a batch of `size`, by stage, and where a whole run waits for the GPU.

    `pair` is benchmarks/fast.py's. Returns ms a candidate of each stage (of `encode` and `finish`, each), and the number of waits.
    """
    cuda = pair.device.type == "cuda"
    order = "self_device_time_total" if cuda else "self_cpu_time_total"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    texts, stage_ms = [], {}
    for stage, (call, rows) in _stages(pair, size).items():
        timed(call, pair.device)
        stage_ms[stage] = timed(call, pair.device)[0] / rows
        with profile(activities=activities) as seen:
            call()
            if cuda:
                torch.cuda.synchronize()
        table = seen.key_averages().table(sort_by=order, row_limit=_TOP, max_name_column_width=90)
        table = "\n".join(line.rstrip() for line in table.splitlines())
        texts.append(f"{stage}, {rows} candidates, {stage_ms[stage]:.3f} ms each\n{table}")
    waits = _waits(pair.whole(2 * size, size)) if cuda else Counter()
    texts.append("Waits of a run of two batches:\n" + "\n".join(f"{n} {at}" for at, n in waits.most_common()))
    write_output(file, "\n\n".join(texts).encode())
    return {"stage_ms": stage_ms, "waits": sum(waits.values())}


def _stages(pair: Any, size: int) -> dict[str, tuple[Callable[[], object], int]]:
    """Return the stages of a batch of fast candidates as calls, and what is paid once: the text, and finishing one."""
    generator, verifier = pair.of(quick=True)
    route, alone = route_of(verifier), generator.encode([PROMPT])
    cond = alone.select([0] * size)
    calls: dict[str, tuple[Callable[[], object], int]] = {"encode": (lambda: generator.encode([PROMPT]), 1)}
    state: Any = range(size)
    for stage in route.per_candidate:
        if stage in STAGES:
            run = STAGES[stage]
            call = partial(run, generator, cond, route.block, state)
            calls[stage] = call, size
            state = call()
    read = route.reads(state)
    calls["score"] = (lambda: verifier.score([PROMPT] * size, read)), size
    calls["finish"] = (lambda: route.finish(generator, alone, state, 0)), 1
    return calls


def _waits(call: Callable[[], object]) -> Counter[str]:
    """Count the lines of Python at which a call waits for the GPU."""
    with _sync_warnings(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return Counter(f"{_short(Path(w.filename))}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))


def _short(file: Path) -> Path:
    """Return a file's path within this repository or the folder of packages: no more concerns a reader."""
    roots = [Path(__file__).parents[1], *map(Path, sys.path)]
    return next((file.relative_to(root) for root in roots if file.is_relative_to(root)), file)


@contextlib.contextmanager
def _sync_warnings() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
