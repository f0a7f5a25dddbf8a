"""Cost of every stage and of whole best-of-N runs: wall-clock, FLOPs, memory and energy, pipeline by pipeline."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vhsbench import generators
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.cost import clocks, percentiles, variants
from vhsbench.harness.cost.clocks import Repeats, first_line
from vhsbench.harness.cost.memory import is_out_of_memory
from vhsbench.harness.cost.meters import energy_per_call, idle_power, peak_memory
from vhsbench.harness.cost.nvml import POWER_CAP, THROTTLED, Gpu
from vhsbench.harness.cost.stages import Call, end_to_end, question_tokens, stages
from vhsbench.harness.cost.timing import TimingConfig

if TYPE_CHECKING:
    import torch

    from vhsbench.generators.protocol import Generator
    from vhsbench.harness.cost.flops import Cost
    from vhsbench.verifiers.protocol import Verifier

Key = tuple[str, int, int]  # stage, n, batch
END_TO_END = "end_to_end"
_PHASE_TRIES = 3
_SHORT_N = 4  # phases and energy are of runs up to this N: longer ones repeat the same stages


class MeasureError(VhsbenchError):
    """A cell that could not be measured; the message is one sentence for a user."""


@dataclass(frozen=True)
class Cell:
    """One pipeline to measure. `verifier` is None for plain generation; `variant` is "" for the plain pipeline."""

    generator: str
    generator_options: dict[str, Any]
    verifier: str | None
    verifier_options: dict[str, Any]
    prompt: str
    timing: TimingConfig
    threads: int | None = None
    variant: str = ""


@dataclass
class Measured:
    """Rows of the `costs` table, and what they were measured on: dtypes, attention, what stays loaded."""

    rows: list[dict[str, Any]]
    about: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Passes:
    """What the passes before the timed one found of each call; None where nothing can tell."""

    tflop: dict[Key, float] = field(default_factory=dict)
    moved_gb: dict[Key, float] = field(default_factory=dict)
    memory: dict[Key, dict[str, float | None]] = field(default_factory=dict)
    energy_j: dict[Key, float | None] = field(default_factory=dict)
    phases_percent: dict[Key, float] = field(default_factory=dict)
    notes: dict[Key, list[str]] = field(default_factory=dict)
    out_of_memory: dict[Key, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)  # on the whole cell
    seconds: dict[str, float] = field(default_factory=dict)  # that each pass took

    @contextmanager
    def taking(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 2)


def cell_name(generator: str, steps: int, verifier: str, variant: str) -> str:
    """How run.json names a pipeline, under "cells"."""
    return "_".join(filter(None, (generator, f"steps={steps}", verifier or "none", variant)))


def failed(cell: Cell, status: str, note: str) -> Measured:
    """Rows with a status and no numbers, one per end-to-end run that was asked for."""
    steps = generators.steps_of(cell.generator, cell.generator_options)
    rows = [
        _row(cell, cell.generator, steps, (END_TO_END, n, 1), status=status, note=note)
        for n in (cell.timing.best_of_n if cell.verifier else (1,))
    ]
    return Measured(rows)


def measure(cell: Cell) -> Measured:
    """One pipeline: every stage and best-of-N end to end, in separate passes for FLOPs, memory, time,
    phases and energy."""
    import torch

    from vhsbench import verifiers

    if cell.threads:
        torch.set_num_threads(cell.threads)
    found = _Passes()
    with found.taking("build"):
        generator = generators.create(cell.generator, **cell.generator_options)
        verifier = verifiers.create(cell.verifier, **cell.verifier_options) if cell.verifier else None
        device = generator.device
        gpu = Gpu.of(device)
        idle_w = idle_power(gpu)
        work = _work(generator, verifier, cell)
    question = question_tokens(verifier, cell.prompt)
    if question and question.guessed:
        found.remarks.append(
            f"the length of the verifier's question is guessed in {', '.join(map(repr, question.guessed))}"
        )
    about = describe(generator, verifier) | {
        "variant": cell.variant, "seconds": found.seconds, "prompt": cell.prompt,
        "question_tokens": asdict(question) if question else None,
    }  # fmt: skip
    with found.taking("flops"):
        _flops(found, work, end_to_end(generator, verifier, cell.prompt, (1, 2)))
    with found.taking("variant"):
        about |= variants.apply(cell.variant, generator, verifier, cell.prompt)
    with found.taking("memory"):
        _each(work, found, lambda key, call: found.memory.update({key: peak_memory(call, device, gpu)}))
    with found.taking("time"):
        times = clocks.interleaved(
            {key: call for key, call in work.items() if key not in found.out_of_memory},
            device,
            repeats=cell.timing.repeats,
            min_seconds=cell.timing.min_seconds,
            warm_up=cell.timing.warm_up,
            taint=lambda: _watch(gpu, found),
        )
    found.out_of_memory |= {key: r.out_of_memory for key, r in times.items() if r.out_of_memory}
    short = {key: call for key, call in work.items() if key[1] <= _SHORT_N}
    with found.taking("phases"):
        _phases(found, generator, verifier, cell, short)
    with found.taking("energy"):
        _each(short, found, lambda key, call: _energy(found, key, energy_per_call(call, gpu, idle_w), idle_w))
    found.remarks += gpu.limits()
    name = device_name(device)
    rows = []
    for key in work:
        shared = _row(
            cell, generator.name, generator.steps, key, device=name,
            tflop=found.tflop.get(key), moved_gb=found.moved_gb.get(key),
            energy_j=found.energy_j.get(key), phases_percent=found.phases_percent.get(key),
            **found.memory.get(key, {}),
        )  # fmt: skip
        rows += _repeats(shared, key, times.get(key, Repeats()), found)
    return Measured(rows, about)


def _energy(found: _Passes, key: Key, energy_j: float | None, idle_w: float | None) -> None:
    found.energy_j[key] = energy_j
    if energy_j is None and idle_w is not None:
        found.notes.setdefault(key, []).append("energy left empty: other processes on the GPU")


def _watch(gpu: Gpu, found: _Passes) -> str:
    """What spoiled the round just over; a power cap, at which a busy card works, and work on the machine's
    other cards, which costs time where the host is what a pipeline waits for, are only remarked."""
    beside = [f"GPU {i} of this machine was at work too" for i in gpu.neighbours()]
    found.remarks = sorted({*found.remarks, *gpu.reasons(POWER_CAP), *beside})
    return "; ".join(taints(gpu))


def _work(generator: Generator, verifier: Verifier | None, cell: Cell) -> dict[Key, Call]:
    """Every call to measure: stages, best-of-N one candidate at a time, and batched at the sizes asked for."""
    work: dict[Key, Call] = {
        (stage, 1, 1): call for stage, call in stages(generator, verifier, cell.prompt).items()
    }
    for batch in (1, *(cell.timing.batch_sizes if verifier else ())):
        ns = [n for n in cell.timing.best_of_n if batch <= n]
        for n, call in end_to_end(generator, verifier, cell.prompt, ns, batch).items():
            work[END_TO_END, n, batch] = call
    return work


def _each(work: Mapping[Key, Call], found: _Passes, do: Callable[[Key, Call], None]) -> None:
    """`do(key, call)` for every call that has not run out of memory; one that does now is kept as such."""
    for key, call in work.items():
        if key in found.out_of_memory:
            continue
        try:
            do(key, call)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            found.out_of_memory[key] = first_line(error)


def _flops(found: _Passes, work: Mapping[Key, Call], runs: Mapping[int, Call]) -> None:
    """FLOPs and bytes of every call. Best-of-N is counted at N = 1 and 2 (`runs`); each further candidate
    computes what the second does, and a batch reads the weights once."""
    from vhsbench.harness.cost.flops import count

    costs: dict[Key, Cost] = {}
    _each(
        {k: c for k, c in work.items() if k[0] != END_TO_END}
        | {(END_TO_END, n, 1): c for n, c in runs.items()},
        found,
        lambda key, call: costs.update({key: count(call)}),
    )
    one = costs.get((END_TO_END, 1, 1))
    two = costs.get((END_TO_END, 2, 1))
    for key in work:
        stage, n, batch = key
        cost = costs.get(key)
        if stage == END_TO_END and cost is None and one is not None and two is not None:
            cost = _extended(one, two, n, batch)
        if cost is None:
            continue
        found.tflop[key], found.moved_gb[key] = cost.tflop, cost.moved_gb
        if cost.uncounted:
            found.notes.setdefault(key, []).append(f"FLOPs without {', '.join(sorted(cost.uncounted))}")


def _extended(one: Cost, two: Cost, n: int, batch: int) -> Cost:
    """Best-of-n in batches, from best-of-1 and best-of-2 one candidate at a time."""
    more = two.less(one)
    weight_bytes = one.weight_bytes + (math.ceil(n / batch) - 1) * more.weight_bytes
    return replace(one.plus(more, n - 1), weight_bytes=weight_bytes)


def _phases(
    found: _Passes, generator: Generator, verifier: Verifier | None, cell: Cell, work: Mapping[Key, Call]
) -> None:
    from vhsbench.harness.inference.best_of_n import best_of_n

    def once(key: Key, call: Call) -> None:
        _, n, batch = key
        for _ in range(_PHASE_TRIES):  # a lasting gap is in every run, an interruption in one
            found.phases_percent[key] = share = clocks.phases_percent(
                generator,
                verifier,
                lambda g, v: best_of_n(g, v, cell.prompt, range(n), batch),
                generator.device,
            )
            if abs(share - 100) <= clocks.PHASES_TOLERANCE_PERCENT:
                break
        else:
            found.notes.setdefault(key, []).append(f"phases add up to {share:.0f}% of end to end")

    _each({key: call for key, call in work.items() if key[0] == END_TO_END}, found, once)


def _repeats(shared: dict[str, Any], key: Key, times: Repeats, found: _Passes) -> list[dict[str, Any]]:
    """One row a repeat; one row without times for a call that ran out of memory before its first."""
    notes = [*found.notes.get(key, []), *found.remarks]
    sound = [wall for wall, taint in zip(times.wall_ms, times.taints, strict=True) if not taint]
    if (off := percentiles.drift(sound)) and abs(off) > percentiles.DRIFT:
        notes.append(f"unstable: the later half's median is {100 * off:+.0f}% of the earlier's")
    rows = [
        shared | {
            "repeat": repeat, "wall_ms": wall, "event_ms": event,
            "status": "tainted" if taint else "ok",
            "note": "; ".join([taint, *notes] if taint else notes),
        }
        for repeat, (wall, event, taint) in enumerate(
            zip(times.wall_ms, times.event_ms, times.taints, strict=True)
        )
    ]  # fmt: skip
    if key in found.out_of_memory:
        why = found.out_of_memory[key]
        rows.append(shared | {"repeat": len(rows), "status": "oom", "note": "; ".join([why, *notes])})
    return rows


def _row(cell: Cell, generator: str, steps: int, key: Key, **known: Any) -> dict[str, Any]:
    stage, n, batch = key
    empty = dict.fromkeys(
        ("wall_ms", "event_ms", "phases_percent", "tflop", "moved_gb", "peak_vram_gb", "peak_reserved_gb",
         "nvml_gb", "peak_rss_gb", "energy_j", "device")
    )  # fmt: skip
    labels = [cell.variant, *([variants.BATCHED] if batch > 1 else [])]
    return empty | {
        "generator": generator, "steps": steps, "verifier": cell.verifier or "",
        "variant": "+".join(filter(None, labels)), "stage": stage, "n": n, "batch": batch, "repeat": 0,
        "status": "ok", "note": "",
    } | known  # fmt: skip


def taints(gpu: Gpu) -> list[str]:
    """What spoils a measurement on this GPU just now, in words."""
    found = gpu.reasons(THROTTLED)
    if others := gpu.others():
        found.append(f"other processes on the GPU: {', '.join(map(str, others))}")
    return found


def describe(generator: Generator, verifier: Verifier | None) -> dict[str, Any]:
    """What a pipeline keeps loaded (parameters and dtype of each part), what it reads, and how it attends."""
    import torch
    from torch.backends import cuda

    parts = {**generator.modules(), **(verifier.modules() if verifier else {})}
    loaded = {
        name: {
            "parameters": sum(p.numel() for p in part.parameters()),
            "dtype": str(next(part.parameters()).dtype).removeprefix("torch."),
        }
        for name, part in parts.items()
        if any(True for _ in part.parameters())
    }
    backends = {
        "flash": cuda.flash_sdp_enabled(),
        "efficient": cuda.mem_efficient_sdp_enabled(),
        "cudnn": cuda.cudnn_sdp_enabled(),
        "math": cuda.math_sdp_enabled(),
    }
    return {
        "needs": verifier.needs if verifier else None,
        "loaded": loaded,
        "attention_backends": [name for name, on in backends.items() if on],
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str:
    import torch

    from vhsbench.harness.cost.environment import cpu_model

    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


def in_words(cell: Cell) -> str:
    """A cell in words, for errors."""
    return f"{cell.generator} with {cell.verifier or 'no verifier'}"
