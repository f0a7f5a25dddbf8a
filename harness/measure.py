"""Cost of every stage and of whole best-of-N runs: wall-clock, FLOPs and memory, pipeline by pipeline."""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from generators.protocol import Generator
    from verifiers.protocol import Verifier

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Cell:
    """One pipeline to measure. `verifier` is None for plain generation."""

    generator: str
    generator_options: dict[str, Any]
    verifier: str | None
    verifier_options: dict[str, Any]
    prompt: str
    best_of_n: tuple[int, ...]
    repeats: int
    warm_up: int
    threads: int | None


def measure_in_fresh_process(cell: Cell) -> Rows:
    """`measure` in a process of its own, so that memory and caches do not leak between cells."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        return pool.submit(measure, cell).result()


def measure(cell: Cell) -> Rows:
    """Rows of the `costs` table for one pipeline: every stage, and best-of-N end to end.

    The repeats go round all of them in turn, so that a drift of the machine meets all alike.
    """
    import torch

    import generators
    import verifiers

    if cell.threads:
        torch.set_num_threads(cell.threads)
    generator = generators.create(cell.generator, **cell.generator_options)
    verifier = verifiers.create(cell.verifier, **cell.verifier_options) if cell.verifier else None
    device = generator.device
    work = {(name, 1): call for name, call in stages(generator, verifier, cell.prompt).items()}
    work |= {("end_to_end", n): call for n, call in end_to_end(generator, verifier, cell).items()}
    tflop = {key: count_tflop(call) for key, call in work.items()}
    memory = {key: peak_memory(call, device) for key, call in work.items()}
    times = interleaved(list(work.values()), cell.repeats, cell.warm_up, device)
    return [
        {
            "generator": generator.name, "steps": generator.steps, "verifier": cell.verifier or "",
            "stage": stage, "n": n, "batch": 1, "repeat": repeat, "wall_ms": wall_ms,
            "tflop": tflop[stage, n], "peak_vram_gb": memory[stage, n][0],
            "peak_rss_gb": memory[stage, n][1], "device": device_name(device),
        }
        for (stage, n), walls in zip(work, times, strict=True)
        for repeat, wall_ms in enumerate(walls)
    ]  # fmt: skip


def stages(generator: Generator, verifier: Verifier | None, prompt: str) -> dict[str, Callable[[], object]]:
    """The stages that a pipeline runs, each ready to be called on one candidate."""
    cond, noise = generator.encode([prompt]), generator.noise([0])
    latents = generator.denoise(cond, noise)
    calls: dict[str, Callable[[], object]] = {
        "encode": lambda: generator.encode([prompt]),
        "noise": lambda: generator.noise([0]),
        "decode": lambda: generator.decode(latents),
    }
    if verifier is not None and verifier.needs == "hidden":
        block = verifier.block or 0
        hidden = generator.head(cond, noise, block)
        calls["head"] = lambda: generator.head(cond, noise, block)
        calls["tail"] = lambda: generator.tail(hidden)
        calls["score"] = lambda: verifier.score([prompt], hidden.features)
        return calls
    calls["denoise"] = lambda: generator.denoise(cond, noise)
    if verifier is not None:
        read = latents if verifier.needs == "latents" else generator.decode(latents)
        calls["score"] = lambda: verifier.score([prompt], read)
    return calls


def end_to_end(
    generator: Generator, verifier: Verifier | None, cell: Cell
) -> dict[int, Callable[[], object]]:
    """Whole best-of-N runs by N; without a verifier only N = 1 means anything."""
    from harness.pipeline import best_of_n

    def call(n: int) -> Callable[[], object]:
        return lambda: best_of_n(generator, verifier, cell.prompt, range(n))

    return {n: call(n) for n in (cell.best_of_n if verifier is not None else (1,))}


def interleaved(
    calls: Sequence[Callable[[], object]], repeats: int, warm_up: int, device: torch.device
) -> list[list[float]]:
    """Wall times in ms, [call][repeat]; each call is run once a round, after warm_up unmeasured rounds."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(warm_up + repeats):
        for walls, call in zip(times, calls, strict=True):
            _synchronize(device)
            started = time.perf_counter()
            call()
            _synchronize(device)
            if turn >= warm_up:
                walls.append(1e3 * (time.perf_counter() - started))
    return times


def count_tflop(call: Callable[[], object]) -> float:
    """TFLOP of a call, 2 per multiply-add, of matrix products, convolutions and attention."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # the counter knows attention as its two matrix products, not the CPU's fused kernel
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        call()
    return float(counter.get_total_flops()) / 1e12


def peak_memory(call: Callable[[], object], device: torch.device) -> tuple[float | None, float | None]:
    """(peak VRAM, peak resident set) in GB: the first on CUDA; the second on CPU, of the process so far."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) / 1e9, None
    call()
    unit = 1 if sys.platform == "darwin" else 1024
    return None, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def device_name(device: torch.device) -> str:
    import torch

    from harness.environment import cpu_model

    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
