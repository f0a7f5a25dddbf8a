"""Do strategies take the time that their stages add up to? Whole runs against the model, in turns with every stage.

    python benchmarks/strategies.py --out FOLDER [--turns 15]                # nano, on the CPU
    python benchmarks/strategies.py --out FOLDER --full-size [--turns 9] [--seconds 170]  # SANA-Sprint, random weights, on the GPU

Everything is loaded once in this process. In a turn every stage is timed SAMPLES times and every strategy once, in an order
that is reversed each time; what a strategy should take is added up from the stages of the same turns. A stop rule is run
where it stops at once and where it never does. Writes rows.parquet (every time) after each turn, and in the end strategies.csv,
which it prints: predicted and measured ms, their difference, TFLOP, peak memory. `own_vram_gb` is that peak without the
weights of verifiers that are loaded here and not the strategy's own. FLOPs of whole runs are counted for nano alone.
Started again with the same --out, it goes on with the next turn; `--seconds` starts none that would end later, by the longest so far.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402
import torch  # noqa: E402

from vhsbench import generators, verifiers  # noqa: E402
from vhsbench.harness.common.atomic import write_output  # noqa: E402
from vhsbench.harness.common.shown import csv_bytes  # noqa: E402
from vhsbench.harness.common.terminal import quiet  # noqa: E402
from vhsbench.harness.cost import clocks  # noqa: E402
from vhsbench.harness.cost.flops import count  # noqa: E402
from vhsbench.harness.cost.measure import END_TO_END, GENERATORS_OWN, SAMPLES, device_name  # noqa: E402
from vhsbench.harness.cost.meters import peak_memory  # noqa: E402
from vhsbench.harness.cost.nvml import THROTTLED, Gpu  # noqa: E402
from vhsbench.harness.cost.stage_costs import StageCosts  # noqa: E402
from vhsbench.harness.cost.stages import stages  # noqa: E402
from vhsbench.harness.cost.turns import FEWEST, quantiles  # noqa: E402
from vhsbench.harness.inference.route import advance_from, denoise_with  # noqa: E402
from vhsbench.harness.regress.speed import weights_bytes  # noqa: E402
from vhsbench.harness.strategies.base import Strategy  # noqa: E402
from vhsbench.harness.strategies.prices import Prices  # noqa: E402
from vhsbench.harness.strategies.registry import parse  # noqa: E402
from vhsbench.harness.strategies.run import run  # noqa: E402

NEVER, AT_ONCE = 1e9, -1e9  # thresholds that no score reaches, and that all do
EARLY = "vhs-early"
NEEDS = {EARLY: "hidden", "vhs": "hidden", "mllm-clip": "images", "mllm-ae": "latents"}  # in order of blocks
EARLY_BLOCK = 3  # of nano's bundled one; at full size half as deep as the paper's
STRATEGIES = [
    *(f"best-of-n:{v},n={n}" for v in ("vhs", "mllm-clip", "mllm-ae") for n in (1, 4)),
    "cascade:vhs>mllm-clip,n=4,k=2", "cascade:vhs>mllm-clip,n=8,k=2", "cascade:vhs>mllm-clip,n=8,k=4",
    "cascade:vhs>mllm-ae,n=8,k=2", "cascade:mllm-ae>mllm-clip,n=4,k=2", "cascade:mllm-clip>vhs,n=4,k=2",
    f"cascade:{EARLY}>vhs,n=8,k=3",
    f"stop:vhs,n=8,tau={NEVER:g}", f"stop:vhs,n=8,tau={AT_ONCE:g}", f"stop:mllm-clip,n=4,tau={NEVER:g}",
    "ensemble:vhs+mllm-clip,n=4,weight=1", "ensemble:vhs+mllm-ae,n=4,weight=1",
    "refine:vhs,n=4,steps=2", "refine:mllm-clip,n=4,steps=2",
]  # fmt: skip
PROMPT = "a photo of a red circle above a blue square"
KEY = ["verifier", "stage", "n"]  # a whole run has its strategy in place of a verifier
GOAL_PERCENT = 5.0  # that whole runs may be off
Key = tuple[str, str, int]
Call = Callable[[], object]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--only", action="append", help="a strategy as text; several may be given")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start no turn that would end later"
    )
    options = parser.parse_args(arguments)
    quiet()
    whole = {text: parse(text).whole() for text in options.only or STRATEGIES}
    times = measure(options, whole)
    if times["visit"].nunique() < FEWEST:
        print(f"fewer than {FEWEST} turns say nothing; start again with the same --out")
        return
    costs = times.merge(pd.read_parquet(options.out / "facts.parquet"), on=KEY)
    found = pd.DataFrame([result(text, strategy, costs) for text, strategy in whole.items()])
    write_output(options.out / "strategies.csv", csv_bytes(found.dropna(axis="columns", how="all")))
    print(found.round(3).to_string())
    good = int((found["off_percent"].abs() <= GOAL_PERCENT).sum())
    print(f"{good} of {len(found)} strategies take what their stages add up to within {GOAL_PERCENT:g}%")


def measure(options: argparse.Namespace, whole: Mapping[str, Strategy]) -> pd.DataFrame:
    """Make the turns that are missing while there is time; returns the times of all, which are written after each."""
    started, longest_s = time.monotonic(), 0.0
    file, facts = options.out / "rows.parquet", options.out / "facts.parquet"
    times = [pd.read_parquet(file)] if file.exists() else []
    done = times[0]["visit"].nunique() if times else 0
    if done < options.turns:
        bench = Bench(*load(options.full_size), whole)
        if times and (times[0]["device"] != bench.device).any():
            raise SystemExit(
                f"{file} has turns of {times[0]['device'].iloc[0]}, not {bench.device}; give another --out."
            )
        bench.warm_up()
        if not facts.exists():
            write_output(facts, bench.facts(count_runs=not options.full_size).to_parquet(index=False))
        print(f"ready after {time.monotonic() - started:.0f} s", flush=True)
    for turn in range(done, options.turns):
        if time.monotonic() - started + longest_s > options.seconds:
            print(f"no time is left for a turn more than these {turn}", flush=True)
            break
        began = time.monotonic()
        times.append(bench.turn(turn))
        write_output(file, pd.concat(times, ignore_index=True).to_parquet(index=False))
        longest_s = max(longest_s, time.monotonic() - began)
    return pd.concat(times, ignore_index=True) if times else pd.DataFrame(columns=["visit"])


def load(full_size: bool) -> tuple[Any, dict[str, Any]]:
    """Load the generator, and verifiers by label."""
    if not full_size:
        torch.set_num_threads(1)
        generator, known = generators.create("nano"), {"generator": "nano"}
    else:
        on_gpu: dict[str, Any] = {"device": "cuda", "dtype": "bfloat16"}
        generator = generators.create("sana-sprint", weights="random", **on_gpu)
        known = {"checkpoint": "random", "generator": "sana-sprint", **on_gpu}
    judges = {v: verifiers.create(v, **known) for v in NEEDS if v != EARLY}
    return generator, judges | {EARLY: verifiers.create("vhs", **known, block=EARLY_BLOCK)}


class Bench:
    """All stages and strategies on loaded models, each a call."""

    def __init__(self, generator: Any, judges: Mapping[str, Any], whole: Mapping[str, Strategy]) -> None:
        self.judges, self.whole = judges, whole
        self.on, self.gpu, self.device = (
            generator.device,
            Gpu.of(generator.device),
            device_name(generator.device),
        )
        self.work: dict[Key, Call] = {}
        for name, verifier in {"": None, **judges}.items():
            for stage, call in stages(generator, verifier, PROMPT).items():
                if not name or stage not in GENERATORS_OWN:
                    self.work[name, stage, 1] = call
        hidden = generator.head(generator.encode([PROMPT]), generator.noise([0]), judges[EARLY].block)
        self.work["vhs", advance_from(EARLY), 1] = lambda: generator.advance(hidden, judges["vhs"].block)
        for steps in {s.again for s in whole.values() if s.again is not None}:
            again = stages(generator.with_steps(steps), None, PROMPT)["denoise"]
            self.work["", denoise_with(steps), 1] = again
        self.runs: dict[Key, Call] = {
            (text, END_TO_END, s.n): lambda s=s: run(s, generator, judges, PROMPT, range(s.n))
            for text, s in whole.items()
        }

    def warm_up(self) -> None:
        for call in (*self.work.values(), *self.runs.values()):
            call()

    def facts(self, count_runs: bool) -> pd.DataFrame:
        """Return FLOPs of every stage, of whole runs if asked for, and their peaks of memory."""
        counted = self.work | (self.runs if count_runs else {})
        peaks = {key: peak_memory(call, self.on, self.gpu) for key, call in self.runs.items()}
        weights_gb = {label: gigabytes(judge) for label, judge in self.judges.items()}
        rows = []
        for key in (*self.work, *self.runs):
            row = dict(zip(KEY, key, strict=True)) | peaks.get(key, {})
            row["tflop"] = count(counted[key]).tflop if key in counted else float("nan")
            if "peak_vram_gb" in row:
                others = set(self.judges) - set(self.whole[key[0]].verifiers)
                row["own_vram_gb"] = row["peak_vram_gb"] - sum(weights_gb[label] for label in others)
            rows.append(row)
        return pd.DataFrame(rows)

    def turn(self, number: int) -> pd.DataFrame:
        """Time every stage SAMPLES times and every whole run once."""
        rows = []
        # whole runs between the samples of a stage, as in a run's own measuring
        keys = [key for sample in range(SAMPLES) for key in (*list(self.runs)[sample::SAMPLES], *self.work)]
        for key in reversed(keys) if number % 2 else keys:
            ms, _ = clocks.timed((self.work | self.runs)[key], self.on)
            rows.append(dict(zip(KEY, key, strict=True)) | {"wall_ms": ms})
        taint = "; ".join(self.gpu.reasons(THROTTLED))
        return pd.DataFrame(rows).assign(
            variant="", batch=1, visit=number, device=self.device, note=taint, status="tainted" if taint else "ok"
        )  # fmt: skip


def gigabytes(judge: Any) -> float:
    """Return what a verifier's weights take."""
    return weights_bytes(judge) / 1e9


def result(text: str, strategy: Strategy, costs: pd.DataFrame) -> dict[str, Any]:
    """Compare what the stages of a strategy add up to with whole runs."""
    times, counted = StageCosts(costs, "ms"), StageCosts(costs, "TFLOP")
    drawn = 1 if getattr(strategy, "tau", NEVER) == AT_ONCE else strategy.n
    needs = {v: need for v, need in NEEDS.items() if v in strategy.verifiers}
    prices = Prices(needs, times)
    predicted, draws = prices.cost(strategy, drawn), prices.draws(strategy, drawn)
    low, high = (float("nan"),) * 2 if draws is None else quantiles(draws)
    measured = times.whole_ms(text, strategy.n)
    here = costs[(costs["verifier"] == text) & (costs["stage"] == END_TO_END)]
    known = here.iloc[0]
    return {
        "strategy": text, "predicted_ms": predicted, "low": low, "high": high, "measured_ms": measured,
        "off_percent": 100 * (predicted / measured - 1), "runs": len(here), "tflop": Prices(needs, counted).cost(strategy, drawn),
        "counted_tflop": known["tflop"], **{name: known[name] for name in here if name.endswith("_gb")},
        "device": known["device"],
    }  # fmt: skip


if __name__ == "__main__":
    main()
