"""The variant `fast` beside the naive loop, the plain pipeline and the FLOP bound, on one device.

    python benchmarks/fast.py --out results/performance/NAME.json [--seconds 240] [--only vhs] [--variant fast-int8]
    python benchmarks/fast.py --out FILE --device cpu --generator nano --batch 4 --first 4      # a dry run

Pipelines have random weights of the true architecture in bf16, built on the device (nano: its own weights). Every
figure is written to FILE when it is known; started again with the same FILE, the rest is measured. `--seconds` starts
nothing new after that long. Each start ends with this run's line in history.csv beside FILE
(benchmarks/fast_history.py draws it) and a list of what the GPU does in FILE's folder, NAME-VERIFIER-profile.txt.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import statistics
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from fast_history import record
from full_size import PROMPT, matmul_tflops, options_of
from naive import naive_best_of_n

from vhsbench import generators, verifiers
from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.cost import fast, variants
from vhsbench.harness.cost.clocks import interleaved, timed
from vhsbench.harness.cost.environment import environment
from vhsbench.harness.cost.flops import count
from vhsbench.harness.cost.measure import device_name
from vhsbench.harness.inference.best_of_n import best_of_n
from vhsbench.harness.inference.route import STAGES, route_of

BUDGET_MS = 550.0
NAIVE_N = 32
MOST_N = 1024
VERIFIERS = ("vhs", "mllm-clip", "mllm-ae")
_TOP = 25  # kernels of a profile


class Figures:
    """What is known so far of a run, in a file; every new figure is written at once."""

    def __init__(self, file: Path, settings: dict[str, Any], seconds: float) -> None:
        """Go on with a file, if there is one. Raises SystemExit if it is of other settings."""
        self.file, self._ends = file, time.monotonic() + seconds
        self.known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if self.known.setdefault("settings", settings) != settings:
            raise SystemExit(f"{file} was measured with {self.known['settings']}, not {settings}.")
        self.known.setdefault("started", datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def late(self) -> bool:
        return time.monotonic() > self._ends

    def lacks(self, key: str) -> bool:
        """Return whether a figure is to be measured now."""
        return key not in self.known and not self.late

    def note(self, key: str, value: Any) -> None:
        self.known[key] = value
        write_output(self.file, (json.dumps(self.known, indent=1) + "\n").encode())
        print(f"{key}: {value}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    if options.shapes == "static":
        torch._dynamo.config.automatic_dynamic_shapes = False
    names = ("generator", "device", "variant", "shapes", "batch", "repeats", "first")
    settings = {name: getattr(options, name) for name in names}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figures = Figures(options.out, settings, options.seconds)
    known_device = figures.known.setdefault("device", device_name(torch.device(options.device)))
    if known_device != device_name(torch.device(options.device)):
        raise SystemExit(f"{options.out} was measured on {known_device}; give another --out here.")
    figures.known["environment"] = environment()
    if figures.lacks("matmul_tflops"):
        figures.note("matmul_tflops", matmul_tflops(options.device))
    for kind in options.only or VERIFIERS:
        try:
            if any(figures.lacks(f"{kind}/{part}") for part in PARTS):
                _verifier(figures, kind, options)
        except Exception as error:  # the other verifiers are still measured
            figures.note(f"{kind}/failed", f"{type(error).__name__}: {error}")
            if options.device == "cpu":
                raise
            torch.cuda.empty_cache()
    record(options.out.parent / "history.csv", figures.known)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--generator", default="sana-sprint")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--variant", default=variants.FAST, choices=variants.IN_BATCHES)
    parser.add_argument(
        "--shapes",
        default="dynamic",
        choices=("dynamic", "static"),
        help="static compiles for every batch size",
    )
    parser.add_argument("--only", action="append", choices=VERIFIERS, help="this verifier; may be repeated")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start nothing after this long")
    parser.add_argument("--batch", type=int, default=32, help="candidates of a batch, at most")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--first", type=int, default=NAIVE_N, help="the N of the comparison with the naive loop"
    )
    return parser


class Pair:
    """A pipeline and a second one of the same weights, which the variant changes."""

    def __init__(self, kind: str, options: argparse.Namespace) -> None:
        for_generator, for_verifier = options_of(options.generator, 1, options.device)
        self.generator = generators.create(options.generator, **for_generator)
        self.verifier = verifiers.create(kind, **for_verifier)
        self.fast_generator, self.fast_verifier = twin(self.generator, self.verifier)
        self.device, self.variant = self.generator.device, options.variant

    def apply(self, failed: Callable[[str], None]) -> dict[str, Any]:
        """Apply the variant; without graphs if it fails with them. Returns how far that moved results, and seconds."""
        whole = fast.speed_up
        for parts in (fast.PARTS, [part for part in fast.PARTS if part != "graphs"]):
            started = time.perf_counter()
            fast.speed_up = partial(whole, parts=parts)
            try:
                moved, remarks = variants.apply(self.variant, self.fast_generator, self.fast_verifier, PROMPT)
            except Exception:
                failed(f"with {', '.join(parts)}: {traceback.format_exc()[-3000:]}")
                self.fast_generator, self.fast_verifier = twin(self.generator, self.verifier)
            else:
                seconds = round(time.perf_counter() - started, 1)
                return moved | {"compile_s": seconds, "parts": list(parts), "remarks": remarks}
            finally:
                fast.speed_up = whole
        raise RuntimeError(f"'{self.variant}' cannot be applied; 'failed' says why")

    def batch(self, size: int, quick: bool = True) -> Callable[[], object]:
        """Return the call that makes and scores a batch of candidates."""
        generator, verifier = self.of(quick)
        route, cond = route_of(verifier), generator.encode([PROMPT]).select([0] * size)

        def call() -> object:
            state = route.start(generator, cond, range(size))
            return verifier.score([PROMPT] * size, route.reads(state))

        return call

    def of(self, quick: bool) -> tuple[Any, Any]:
        return (self.fast_generator, self.fast_verifier) if quick else (self.generator, self.verifier)

    def whole(self, n: int, batch: int, quick: bool = True) -> Callable[[], object]:
        return lambda: best_of_n(*self.of(quick), PROMPT, range(n), batch)

    def seconds(self, call: Callable[[], object]) -> float:
        return round(timed(call, self.device)[0] / 1e3, 2)


def twin(generator: Any, verifier: Any) -> tuple[Any, Any]:
    """Return copies of both that share all weights, so that one may be changed and the other not."""
    modules = [*generator.modules().values(), *verifier.modules().values()]
    memo = {id(t): t for m in modules for t in (*m.parameters(), *m.buffers())}
    return copy.deepcopy((generator, verifier), memo)


PARTS = ("candidate", "applied", "first_batch_s", "candidate_fast", "decode", "whole", "within", "profile")


def _verifier(figures: Figures, kind: str, options: argparse.Namespace) -> None:
    """Measure all that is not known of one verifier."""
    started = time.perf_counter()
    pair = Pair(kind, options)
    size, repeats = options.batch, options.repeats
    key = f"{kind}/".__add__
    if figures.lacks(key("build_s")):
        figures.note(key("build_s"), round(time.perf_counter() - started, 1))
    if figures.lacks(key("tflop")):
        plain = [count(pair.whole(n, 1, quick=False)).tflop for n in (1, 2)]
        figures.note(key("tflop"), plain[1] - plain[0])
    if figures.lacks(key("candidate")):
        calls = {f"batch {n}": pair.batch(n, quick=False) for n in (1, size)}
        figures.note(key("candidate"), each_ms(calls, (1, size), pair.device, repeats))
    if figures.late:
        return
    applied = pair.apply(lambda failure: figures.note(key("failed"), failure))
    if figures.lacks(key("applied")):  # at a second start the code comes from inductor's cache
        figures.note(key("applied"), applied)
    if figures.late:
        return
    quick = pair.batch(size)
    first_batch_s = pair.seconds(quick)  # with what it compiles
    if figures.lacks(key("first_batch_s")):
        figures.note(key("first_batch_s"), first_batch_s)
    if figures.lacks(key("candidate_fast")):
        calls = {"batch 1": pair.batch(1), f"batch {size}": quick}
        found = each_ms(calls, (1, size), pair.device, repeats)
        figures.note(key("candidate_fast"), found | bound(figures, key("tflop"), found[f"batch {size}"]))
    for part, measure in (("whole", _whole), ("within", _within), ("decode", _decode), ("profile", _profile)):
        if figures.lacks(key(part)):
            figures.note(key(part), measure(pair, figures, options, kind))
    if pair.device.type == "cuda":
        figures.note(key("peak_gb"), torch.cuda.max_memory_allocated() / 1e9)
    del pair, quick
    torch._dynamo.reset()


def each_ms(
    calls: dict[str, Callable[[], object]], rows: Sequence[int], device: torch.device, repeats: int
) -> dict[str, float]:
    """Return the median ms a row of each call, timed in turns after one round that does not count."""
    for call in calls.values():
        timed(call, device)
    found = interleaved(calls, device, repeats=repeats)
    return {
        name: statistics.median(times.wall_ms) / n
        for (name, times), n in zip(found.items(), rows, strict=True)
    }


def bound(figures: Figures, tflop: str, ms: float) -> dict[str, float]:
    """Return the ms that the counted FLOPs take at the measured peak, and `ms` over them; nothing without a peak."""
    peak = figures.known.get("matmul_tflops")
    if not peak or not figures.known.get(tflop):
        return {}
    least = 1e3 * figures.known[tflop] / peak
    return {"bound_ms": least, "to_bound": ms / least}


def _whole(pair: Pair, figures: Figures, options: argparse.Namespace, kind: str) -> dict[str, float]:
    """Time best-of-N by the naive loop, staged, staged in batches, and fast, in turns."""
    n, size = options.first, min(options.first, options.batch)
    calls = {
        "naive": lambda: naive_best_of_n(pair.generator, pair.verifier, PROMPT, range(n)),
        "staged": pair.whole(n, 1, quick=False),
        "batched": pair.whole(n, size, quick=False),
        "fast": pair.whole(n, size),
        "fast_one_at_a_time": pair.whole(n, 1),
    }
    for name in ("batched", "fast", "fast_one_at_a_time"):  # the first two ran in parts before
        timed(calls[name], pair.device)
    found = interleaved(calls, pair.device, repeats=options.repeats)
    ms = {name: statistics.median(times.wall_ms) for name, times in found.items()}
    return {"n": n, **ms, "naive_to_fast": ms["naive"] / ms["fast"]}


def _within(pair: Pair, figures: Figures, options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Find the most candidates within BUDGET_MS, in whole batches, by whole runs; smaller ones if not one fits."""
    tried: dict[int, float] = {}
    for size in dict.fromkeys((options.batch, min(8, options.batch), 1)):

        def ms(n: int, size: int = size) -> float:
            times = [timed(pair.whole(n, size), pair.device)[0] for _ in range(options.repeats + 2)]
            tried[n] = statistics.median(times[1:])  # the first of a new size compiles
            return tried[n]

        if n := largest(ms, BUDGET_MS, size, MOST_N):
            break
    return {"n": n, "batch": size, "ms": dict(sorted(tried.items()))}


def largest(ms: Callable[[int], float], budget: float, step: int, most: int) -> int:
    """Return the largest multiple of `step` up to `most` whose time is within budget, by doubling and halving; or 0."""
    low, high = 0, step
    while high <= most and ms(high) <= budget:
        low, high = high, 2 * high
    high = min(high, (most // step + 1) * step)
    while high - low > step:
        middle = (low + high) // (2 * step) * step
        low, high = (middle, high) if ms(middle) <= budget else (low, middle)
    return low


def _decode(pair: Pair, figures: Figures, options: argparse.Namespace, kind: str) -> dict[str, float]:
    """Time the decoder, ms an image: one, and a group; what the first calls of fast took beyond goes apart."""
    cond = pair.generator.encode([PROMPT])
    with torch.inference_mode():
        latents = pair.generator.denoise(
            cond.select([0] * fast.GROUP), pair.generator.noise(range(fast.GROUP))
        )
    calls = {
        f"{name} {rows}": lambda generator=generator, rows=rows: generator.decode(latents[:rows])
        for name, generator in (("plain", pair.generator), ("fast", pair.fast_generator))
        for rows in (1, fast.GROUP)
    }
    first_s = {f"first {name} s": pair.seconds(calls[name]) for name in calls if name.startswith("fast")}
    rows = [1, fast.GROUP, 1, fast.GROUP]
    return each_ms(calls, rows, pair.device, options.repeats) | first_s


def _profile(pair: Pair, figures: Figures, options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Write which kernels take the time of a batch, by stage, and where a whole run waits for the GPU."""
    from torch.profiler import ProfilerActivity, profile

    cuda = pair.device.type == "cuda"
    order = "self_device_time_total" if cuda else "self_cpu_time_total"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    texts, stage_ms = [], {}
    for stage, call in _stages(pair, options.batch).items():
        timed(call, pair.device)
        stage_ms[stage] = timed(call, pair.device)[0] / options.batch
        with profile(activities=activities) as seen:
            call()
            if cuda:
                torch.cuda.synchronize()
        table = seen.key_averages().table(sort_by=order, row_limit=_TOP, max_name_column_width=90)
        texts.append(f"{stage}, {options.batch} candidates, {stage_ms[stage]:.3f} ms each\n{table}")
    waits = _waits(pair.whole(2 * options.batch, options.batch)) if cuda else Counter()
    texts.append("Waits of a run of two batches:\n" + "\n".join(f"{n} {at}" for at, n in waits.most_common()))
    write_output(options.out.with_name(f"{options.out.stem}-{kind}-profile.txt"), "\n\n".join(texts).encode())
    return {"stage_ms": stage_ms, "waits": sum(waits.values())}


def _stages(pair: Pair, size: int) -> dict[str, Callable[[], object]]:
    """Return the stages of a batch of fast candidates as calls."""
    generator, verifier = pair.of(quick=True)
    route, cond = route_of(verifier), generator.encode([PROMPT]).select([0] * size)
    calls: dict[str, Callable[[], object]] = {}
    state: Any = range(size)
    for stage in route.per_candidate:
        if stage in STAGES:
            run = STAGES[stage]
            calls[stage] = lambda run=run, state=state: run(generator, cond, route.block, state)
            state = calls[stage]()
    read = route.reads(state)
    calls["score"] = lambda: verifier.score([PROMPT] * size, read)
    return calls


def _waits(call: Callable[[], object]) -> Counter[str]:
    """Count the lines of Python at which a call waits for the GPU."""
    with _sync_warnings(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return Counter(f"{w.filename}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))


@contextlib.contextmanager
def _sync_warnings() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


if __name__ == "__main__":
    main()
