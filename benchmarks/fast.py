"""The variant `fast` beside the naive loop, the plain pipeline and the FLOP bound, on one device.

    python benchmarks/fast.py --jobs --out results/performance/NAME.json --seconds 480
    python benchmarks/fast.py --out FILE [--only vhs] [--generator sana-sprint] [--variant fast-fp8] [--brief]
    python benchmarks/fast.py --out FILE --device cpu --generator nano --batch 4 --first 4      # a dry run

`--jobs` does all that is in JOBS, in their order, each in a file of its own: NAME-JOB.json. On an H200 (27 November 2026, an empty
inductor cache at the start) sana took 350 s, sd3 123, pixart 72, flux 110. `--seconds` starts nothing later; given again, the rest is
measured.

Pipelines have random weights of the true architecture in bf16, built on the device (nano: its own weights). Every
figure is written to FILE when it is known; started again with the same FILE, the rest is measured. `--seconds` starts
nothing new after that long. Each start ends with this run's line in history.csv beside FILE
(benchmarks/fast_history.py draws it) and a list of what the GPU does in FILE's folder, NAME-VERIFIER-profile.txt.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from fast_history import record
from fast_profile import profiled
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
from vhsbench.harness.inference.route import route_of

PROMPTS = (  # of one length in tokens, so that nothing is compiled for another
    PROMPT,
    "a photo of a blue circle above a red square",
    "a photo of a green circle above a blue square",
    "a photo of a red square above a blue circle",
)
# a candidate's, for PROMPT, as harness/cost/counting.py counts them on meta; others are counted here
TFLOP = {
    ("sana-sprint", "vhs"): 2.107686,
    ("sana-sprint", "mllm-ae"): 3.879894,
    ("sana-sprint", "mllm-clip"): 12.224997,
    ("pixart-alpha-dmd", "vhs"): 1.269472,
    ("flux-schnell", "mllm-clip"): 80.828544,
    ("sd3.5-turbo", "mllm-clip"): 42.483033,
}
# by name, in order: options of this script
JOBS = {
    "sd3": "--generator sd3.5-turbo --only mllm-clip --brief",
    "sana": "--only mllm-ae --only vhs --only mllm-clip",
    "pixart": "--generator pixart-alpha-dmd --only vhs --brief",
    "fp8": "--only vhs --variant fast-fp8 --skip candidate --skip whole --skip decode",
    "flux": "--generator flux-schnell --only mllm-clip --brief",
}
BRIEF = 8  # candidates, in one batch: all that --brief makes
BUDGET_MS = 550.0
NAIVE_N = 32
MOST_N = 1024
VERIFIERS = ("vhs", "mllm-clip", "mllm-ae")
PARTS = ("candidate", "applied", "candidate_fast", "whole", "within", "decode", "profile")


class Figures:
    """What is known so far of a run, in a file; every new figure is written at once."""

    def __init__(
        self, file: Path, settings: dict[str, Any], seconds: float, skipped: Collection[str] = ()
    ) -> None:
        """Go on with a file, if there is one. Raises SystemExit if it is of other settings."""
        self.file, self._ends, self.skipped = file, time.monotonic() + seconds, frozenset(skipped)
        self.known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if self.known.setdefault("settings", settings) != settings:
            raise SystemExit(f"{file} was measured with {self.known['settings']}, not {settings}.")
        self.known.setdefault("started", datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def late(self) -> bool:
        return time.monotonic() > self._ends

    def lacks(self, key: str) -> bool:
        """Return whether a figure is to be measured now."""
        return key not in self.known and key.rpartition("/")[2] not in self.skipped and not self.late

    def note(self, key: str, value: Any) -> None:
        self.known[key] = value
        write_output(self.file, (json.dumps(self.known, indent=1) + "\n").encode())
        print(f"{key}: {value}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if not options.jobs:
        _measure(options)
        return
    ends = time.monotonic() + options.seconds
    for name, job in JOBS.items():
        out = options.out.with_name(f"{options.out.stem}-{name}.json")
        each = _parser().parse_args(["--out", str(out), "--device", options.device, *job.split()])
        each.seconds = ends - time.monotonic()
        if each.seconds > 0:
            _measure(each)


def _measure(options: argparse.Namespace) -> None:
    """Measure all that the options ask for, and is not known yet."""
    if options.shapes == "static":
        torch._dynamo.config.automatic_dynamic_shapes = False
    if options.brief:
        options.batch = options.first = BRIEF
        options.skip = [*options.skip, "within", "decode"]
    names = ("generator", "device", "variant", "shapes", "batch", "repeats", "first", "brief")
    settings = {name: getattr(options, name) for name in names}
    figures = Figures(options.out, settings, options.seconds, options.skip)
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
        gc.collect()  # a pipeline's parts hold each other, and the next one wants their memory
        torch.cuda.empty_cache()
    if any("/" in name for name in figures.known):  # else there was no time for any figure
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
    parser.add_argument("--jobs", action="store_true", help="all of JOBS, each in a file of its own")
    parser.add_argument(
        "--brief", action="store_true", help=f"one batch of {BRIEF} against the naive loop, and its profile"
    )
    parser.add_argument(
        "--skip", action="append", default=[], choices=PARTS, help="this part; may be repeated"
    )
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
        self.device, self.variant, self.brief = self.generator.device, options.variant, options.brief
        # decoding more at once takes the memory of all, and no less time
        self.plain_batch = (
            min(options.batch, fast.GROUP) if self.verifier.needs == "images" else options.batch
        )

    def apply(
        self, size: int, before: dict[str, torch.Tensor] | None, failed: Callable[[str], None]
    ) -> tuple[dict[str, Any], float]:
        """Apply the variant; without graphs if it fails with them.

        Returns how far that moved results, if those of `before` are given, and seconds; and those of the first batch.
        """
        whole = fast.speed_up
        for parts in (fast.PARTS, ("pictures", "kept", "compile")):
            started = time.perf_counter()
            fast.speed_up = partial(whole, parts=parts)
            try:
                remarks = variants.make(self.variant, *self.of(quick=True))
                if not self.brief:
                    self.seconds(self.whole(1, 1))
                seconds = round(time.perf_counter() - started, 1)
                first_batch_s = self.seconds(self.batch(size))
                about = {"compile_s": seconds, "parts": list(parts), "remarks": remarks}
                if before is not None:
                    after = variants.results(*self.of(quick=True), PROMPTS, min(size, variants.CANDIDATES))
                    about |= variants.compare(self.variant, self.generator, before, after)
            except Exception:
                failed(f"with {', '.join(parts)}: {traceback.format_exc()[-3000:]}")
                self.fast_generator, self.fast_verifier = twin(self.generator, self.verifier)
            else:
                return about, first_batch_s
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


def _verifier(figures: Figures, kind: str, options: argparse.Namespace) -> None:
    """Measure all that is not known of one verifier."""
    started = time.perf_counter()
    pair = Pair(kind, options)
    size, repeats = options.batch, options.repeats
    ones = () if options.brief else (1,)
    key = f"{kind}/".__add__
    if figures.lacks(key("build_s")):
        figures.note(key("build_s"), round(time.perf_counter() - started, 1))
    if figures.lacks(key("tflop")):
        figures.note(key("tflop"), TFLOP.get((options.generator, kind)) or _tflop(pair))
    if figures.lacks(key("candidate")):
        sizes = dict.fromkeys((*ones, pair.plain_batch))
        calls = {f"batch {rows}": (pair.batch(rows, quick=False), rows) for rows in sizes}
        figures.note(key("candidate"), each_ms(calls, pair.device, repeats))
    if figures.late:
        return
    before = variants.results(*pair.of(quick=False), PROMPTS) if figures.lacks(key("applied")) else None
    applied, first_batch_s = pair.apply(size, before, lambda failure: figures.note(key("failed"), failure))
    if before is not None:  # at a second start the code comes from inductor's cache
        figures.note(key("applied"), applied)
        figures.note(key("first_batch_s"), first_batch_s)
    if figures.lacks(key("candidate_fast")):
        calls = {f"batch {rows}": (pair.batch(rows), rows) for rows in dict.fromkeys((*ones, size))}
        # the plain batch in the same turns: at another minute the machine may be slower
        again = pair.plain_batch
        calls[f"plain batch {again}"] = pair.batch(again, quick=False), again
        found = each_ms(calls, pair.device, repeats)
        figures.note(key("candidate_fast"), found | bound(figures, key("tflop"), found[f"batch {size}"]))
    for part, measure in (("whole", _whole), ("within", _within), ("decode", _decode), ("profile", _profile)):
        # the decoder is the generator's, whichever verifier reads
        if figures.lacks(key(part)) and not (
            part == "decode" and any(k.endswith("/decode") for k in figures.known)
        ):
            figures.note(key(part), measure(pair, figures, options, kind))
    if pair.device.type == "cuda":
        figures.note(key("peak_gb"), torch.cuda.max_memory_allocated() / 1e9)
        torch.cuda.reset_peak_memory_stats()
    del pair
    torch._dynamo.reset()


def _tflop(pair: Pair) -> float:
    """Count a candidate's TFLOP: what best of two takes more than one."""
    one, two = (count(pair.whole(n, 1, quick=False)).tflop for n in (1, 2))
    return two - one


def each_ms(
    calls: Mapping[str, tuple[Callable[[], object], int]], device: torch.device, repeats: int
) -> dict[str, float]:
    """Return the median ms a row of calls, each given with its rows, timed in turns after one round that does not count."""
    for call, _ in calls.values():
        timed(call, device)
    found = interleaved({name: call for name, (call, _) in calls.items()}, device, repeats=repeats)
    return {name: statistics.median(found[name].wall_ms) / rows for name, (_, rows) in calls.items()}


def bound(figures: Figures, tflop: str, ms: float) -> dict[str, float]:
    """Return the ms that the counted FLOPs take at the measured peak, and `ms` over them; nothing without a peak."""
    peak = figures.known.get("matmul_tflops")
    if not peak or not figures.known.get(tflop):
        return {}
    least = 1e3 * figures.known[tflop] / peak
    return {"bound_ms": least, "to_bound": ms / least}


def _whole(pair: Pair, figures: Figures, options: argparse.Namespace, kind: str) -> dict[str, float]:
    """Time best-of-N by the naive loop and staged, once; staged in batches, and fast, in turns."""
    n, size = options.first, min(options.first, options.batch)
    slow = {
        "naive": lambda: naive_best_of_n(pair.generator, pair.verifier, PROMPT, range(n)),
        "staged": pair.whole(n, 1, quick=False),
    }
    calls = {"batched": pair.whole(n, min(size, pair.plain_batch), quick=False), "fast": pair.whole(n, size)}
    if not options.brief:
        calls["fast_one_at_a_time"] = pair.whole(n, 1)
    ms = {
        name: timed(call, pair.device)[0] for name, call in slow.items()
    }  # of N candidates each, all run before
    for call in calls.values():
        timed(call, pair.device)
    found = interleaved(calls, pair.device, repeats=options.repeats)
    ms |= {name: statistics.median(times.wall_ms) for name, times in found.items()}
    return {"n": n, **ms, "naive_to_fast": ms["naive"] / ms["fast"]}


def _within(pair: Pair, figures: Figures, options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Find the most candidates within BUDGET_MS, in whole batches, by whole runs; smaller ones if not one fits.

    Then time as many and one batch more in batches of twice the size, which could fill a GPU better.
    """

    def ms(n: int, size: int) -> float:
        times = [timed(pair.whole(n, size), pair.device)[0] for _ in range(max(2, options.repeats))]
        return statistics.median(times[1:])  # the first of a new size compiles

    tried: dict[int, float] = {}
    for size in dict.fromkeys((options.batch, min(8, options.batch), 1)):

        def kept(n: int, size: int = size) -> float:
            tried[n] = ms(n, size)
            return tried[n]

        if n := largest(kept, BUDGET_MS, size, MOST_N):
            break
    found = {"n": n, "batch": size, "ms": dict(sorted(tried.items()))}
    if n >= 2 * size > 2 and options.shapes == "dynamic":  # else it would be compiled for this alone
        found["twice_the_batch_ms"] = {m: ms(m, 2 * size) for m in (n, n + size)}
    return found


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
        f"{name} {rows}": (partial(generator.decode, latents[:rows]), rows)
        for name, generator in (("plain", pair.generator), ("fast", pair.fast_generator))
        for rows in (1, fast.GROUP)
    }
    first = {f"first {name} s": pair.seconds(calls[name][0]) for name in ("fast 1", f"fast {fast.GROUP}")}
    return first | each_ms(calls, pair.device, options.repeats)


def _profile(pair: Pair, figures: Figures, options: argparse.Namespace, kind: str) -> dict[str, Any]:
    return profiled(pair, options.batch, options.out.with_name(f"{options.out.stem}-{kind}-profile.txt"))


if __name__ == "__main__":
    main()
