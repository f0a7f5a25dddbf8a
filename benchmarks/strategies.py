"""Do strategies take the time that their stages add up to? Whole runs against the model, in turns with every stage.

    python benchmarks/strategies.py --out FOLDER [--turns 15]                # nano, on the CPU
    python benchmarks/strategies.py --out FOLDER --full-size [--turns 15]    # SANA-Sprint, random weights, on the GPU

Everything is loaded once in this process. In a turn every stage is timed SAMPLES times and every strategy once, in an order
that is reversed each time; what a strategy should take is added up from the stages of the same turns. A stop rule is run
where it stops at once and where it never does. Writes rows.csv (every time) and strategies.csv: predicted and
measured ms, their difference, TFLOP, peak memory; and prints the latter.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402
import torch  # noqa: E402

from vhsbench import generators, verifiers  # noqa: E402
from vhsbench.harness.common.terminal import quiet  # noqa: E402
from vhsbench.harness.cost import clocks  # noqa: E402
from vhsbench.harness.cost.environment import environment  # noqa: E402
from vhsbench.harness.cost.flops import count  # noqa: E402
from vhsbench.harness.cost.measure import GENERATORS_OWN, SAMPLES  # noqa: E402
from vhsbench.harness.cost.meters import peak_memory  # noqa: E402
from vhsbench.harness.cost.nvml import Gpu  # noqa: E402
from vhsbench.harness.cost.stage_costs import StageCosts  # noqa: E402
from vhsbench.harness.cost.stages import stages  # noqa: E402
from vhsbench.harness.cost.turns import quantiles  # noqa: E402
from vhsbench.harness.inference.route import denoise_with  # noqa: E402
from vhsbench.harness.strategies.base import Strategy  # noqa: E402
from vhsbench.harness.strategies.prices import Prices  # noqa: E402
from vhsbench.harness.strategies.registry import parse  # noqa: E402
from vhsbench.harness.strategies.run import run  # noqa: E402

NEVER, AT_ONCE = 1e9, -1e9  # thresholds that no score reaches, and that all do
STRATEGIES = [
    *(f"best-of-n:{v},n={n}" for v in ("vhs", "mllm-clip", "mllm-ae") for n in (1, 4)),
    "cascade:vhs>mllm-clip,n=4,k=2", "cascade:vhs>mllm-clip,n=8,k=2", "cascade:vhs>mllm-clip,n=8,k=4",
    "cascade:vhs>mllm-ae,n=8,k=2", "cascade:mllm-ae>mllm-clip,n=4,k=2", "cascade:mllm-clip>vhs,n=4,k=2",
    f"stop:vhs,n=8,tau={NEVER:g}", f"stop:vhs,n=8,tau={AT_ONCE:g}", f"stop:mllm-clip,n=4,tau={NEVER:g}",
    "ensemble:vhs+mllm-clip,n=4,weight=1", "ensemble:vhs+mllm-ae,n=4,weight=1",
    "refine:vhs,n=4,steps=2", "refine:mllm-clip,n=4,steps=2",
]  # fmt: skip
PROMPT = "a photo of a red circle above a blue square"
Call = Callable[[], object]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--full-size", action="store_true")
    parser.add_argument("--only", action="append", help="a strategy as text; several may be given")
    options = parser.parse_args(arguments)
    quiet()
    options.out.mkdir(parents=True, exist_ok=True)
    generator, judges = load(options.full_size)
    whole = {text: parse(text).whole() for text in options.only or STRATEGIES}
    rows, found = measure(generator, judges, whole, options.turns)
    about = environment(torch.get_num_threads())
    rows.assign(device=clocks_name(generator)).to_csv(options.out / "rows.csv", index=False)
    found.assign(generator=generator.name, device=clocks_name(generator), cpu=about.get("cpu", "")).to_csv(
        options.out / "strategies.csv", index=False
    )
    print(found.round(3).to_string())


def load(full_size: bool) -> tuple[Any, dict[str, Any]]:
    if not full_size:
        torch.set_num_threads(1)
        generator = generators.create("nano")
        return generator, {v: verifiers.create(v, generator="nano") for v in ("vhs", "mllm-clip", "mllm-ae")}
    known: dict[str, Any] = {"device": "cuda", "dtype": "bfloat16"}
    generator = generators.create("sana-sprint", weights="random", **known)
    return generator, {
        v: verifiers.create(v, checkpoint="random", generator="sana-sprint", **known)
        for v in ("vhs", "mllm-clip", "mllm-ae")
    }


def clocks_name(generator: Any) -> str:
    return torch.cuda.get_device_name() if generator.device.type == "cuda" else "cpu"


def measure(
    generator: Any, judges: Mapping[str, Any], whole: Mapping[str, Strategy], turns: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Time every stage and every strategy in turns: all times, and a row a strategy."""
    work: dict[tuple[str, str, int], Call] = {}
    with torch.inference_mode():
        for name, verifier in {"": None, **judges}.items():
            for stage, call in stages(generator, verifier, PROMPT).items():
                if not name or stage not in GENERATORS_OWN:
                    work[name, stage, 1] = call
        for steps in {s.again for s in whole.values() if s.again is not None}:
            again = stages(generator.with_steps(steps), None, PROMPT)["denoise"]
            work["", denoise_with(steps), 1] = again
    runs: dict[tuple[str, str, int], Call] = {
        (text, "end_to_end", strategy.n): lambda s=strategy: run(s, generator, judges, PROMPT, range(s.n))
        for text, strategy in whole.items()
    }
    for call in (*work.values(), *runs.values()):
        call()  # warm
    tflop = {key: count(call).tflop for key, call in (work | runs).items()}
    gpu = Gpu.of(generator.device)
    memory = {key: peak_memory(call, generator.device, gpu) for key, call in runs.items()}
    rows = []
    for turn in range(turns):
        # whole runs between the samples of a stage, as in a run's own measuring
        keys = [key for sample in range(SAMPLES) for key in (*list(runs)[sample::SAMPLES], *work)]
        for key in reversed(keys) if turn % 2 else keys:
            ms, _ = clocks.timed((work | runs)[key], generator.device)
            rows.append(dict(zip(("verifier", "stage", "n"), key, strict=True)) | {
                "variant": "", "batch": 1, "visit": turn, "wall_ms": ms, "tflop": tflop[key], "status": "ok", "note": "",
            })  # fmt: skip
    costs = pd.DataFrame(rows)
    return costs, pd.DataFrame([
        result(text, strategy, judges, costs) | {k: v for k, v in memory[text, "end_to_end", strategy.n].items() if v}
        for text, strategy in whole.items()
    ])  # fmt: skip


def result(text: str, strategy: Strategy, judges: Mapping[str, Any], costs: pd.DataFrame) -> dict[str, Any]:
    """Compare what the stages of a strategy add up to with whole runs."""
    times, counted = StageCosts(costs, "ms"), StageCosts(costs, "TFLOP")
    drawn = 1 if getattr(strategy, "tau", NEVER) == AT_ONCE else strategy.n
    needs = {v: judges[v].needs for v in strategy.verifiers}
    prices = Prices(needs, times)
    predicted, draws = prices.cost(strategy, drawn), prices.draws(strategy, drawn)
    low, high = (float("nan"),) * 2 if draws is None else quantiles(draws)
    measured = times.whole_ms(text, strategy.n)
    here = costs[(costs["verifier"] == text) & (costs["stage"] == "end_to_end")]
    return {
        "strategy": text, "predicted_ms": predicted, "low": low, "high": high, "measured_ms": measured,
        "off_percent": 100 * (predicted / measured - 1), "runs": len(here), "tflop": Prices(needs, counted).cost(strategy, drawn),
        "counted_tflop": float(here["tflop"].iloc[0]),
    }  # fmt: skip


if __name__ == "__main__":
    main()
