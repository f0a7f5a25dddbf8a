"""Cost of the full-size pipelines on one GPU, with random weights of the true architectures.

    python benchmarks/full_size.py --out results/h200 [--seconds 540] [--only sana-sprint] [--tiny]

Time, FLOPs and memory do not depend on what weights say. The pipelines of one generator are
measured side by side, each in a process of its own, and written when they are done; started again with the same --out,
the rest is done. `--seconds` starts no new group after that long. `--tiny` measures nano on the CPU instead: a dry run of this very script.
Every start that measures adds its environment to run.json, and a cell there names its own by number.
Writes the run's tables (costs, run.json) and summary.csv, stages.csv, naive.csv.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.processes import end_with_parent
from vhsbench.harness.common.shown import csv_bytes
from vhsbench.harness.cost import budgets
from vhsbench.harness.cost.clocks import interleaved
from vhsbench.harness.cost.cost_model import TOLERANCE
from vhsbench.harness.cost.environment import environment
from vhsbench.harness.cost.measure import Cell
from vhsbench.harness.cost.rounds import cell_name, measure_in_turns
from vhsbench.harness.cost.sound import sound
from vhsbench.harness.cost.timing import TimingConfig
from vhsbench.harness.cost.variants import LOOPS
from vhsbench.harness.report.costs import cost_table
from vhsbench.harness.store.keys import CELL, POOL, of_pool
from vhsbench.harness.store.tables import RunStore

T = TypeVar("T")
PROMPT = "a photo of a red circle above a blue square"
PAPER_BUDGETS_MS = (550, 1100, 1650)
PAPER_N = (1, 2, 4, 9, 15, 32)
NAIVE_N = (4, 9, 15)
VERIFIERS = ("vhs", "mllm-clip", "mllm-ae")


@dataclass(frozen=True)
class Group:
    """Pipelines of one generator that are measured side by side, each verifier with each variant."""

    generator: str
    steps: int
    verifiers: tuple[str, ...]  # beside the generator alone
    best_of_n: tuple[int, ...] = (1,)
    batch_sizes: tuple[int, ...] = ()
    variants: tuple[str, ...] = ("",)

    def cells(self) -> list[tuple[str, str]]:
        """Return (verifier, variant) of each pipeline; "" is the generator alone."""
        return [(verifier, variant) for variant in self.variants for verifier in ("", *self.verifiers)]


# In the order of what is missed most if time runs out.
MATRIX = (
    Group("sana-sprint", 1, VERIFIERS, PAPER_N, (4,)),
    Group("sana-sprint", 1, ("vhs", "mllm-clip"), (1, 4), (4,), ("cuda-graphs", "channels-last")),
    Group("pixart-alpha-dmd", 1, VERIFIERS, PAPER_N, (4,)),
    *(Group("flux-schnell", steps, ("mllm-clip",), (1, 2, 3)) for steps in (1, 2)),
    Group("sd3.5-turbo", 1, ("mllm-clip",), (1, 2, 3)),
    *(Group("sana-1.5", steps, ()) for steps in (4, 12, 16)),
    *(Group("sana-sprint", steps, ()) for steps in (8, 20, 30)),
    Group("sana-sprint", 1, ("vhs",), (1, 4), (4,), ("torch-compile",)),
)
TINY = (Group("nano", 1, ("vhs",), (1, 2), (2,)),)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start no pipeline after this long"
    )
    parser.add_argument("--repeats", type=int, default=6)
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one pipeline")
    parser.add_argument("--only", default="", help="pipelines of this generator alone")
    parser.add_argument("--tiny", action="store_true", help="nano on the CPU: a dry run")
    parser.add_argument("--derive", action="store_true", help="measure nothing: only the summaries of --out")
    options = parser.parse_args(arguments)
    matrix = [p for p in (TINY if options.tiny else MATRIX) if options.only in p.generator]
    device = "cpu" if options.tiny else "cuda"
    with RunStore(options.out, {"benchmark": "full_size", "tiny": options.tiny}) as store:
        if options.derive:
            summarise(options.out, store.info)
        else:
            environments = [*store.info.get("environments", []), environment()]
            store.update(environments=environments, weights="bundled" if options.tiny else "random")
            store.update(matmul_tflops=store.info.get("matmul_tflops") or alone(matmul_tflops, device))
            measure_all(store, matrix, device, options)
            store.consolidate()
            summarise(options.out, store.info)
            missing = [name for name in wanted(options.tiny) if not store.has("costs", name)]
            status = "incomplete" if missing else "complete"
            store.update(status=status, missing=missing, digests=store.digests)


def wanted(tiny: bool) -> list[str]:
    """Return the cells that a whole measurement has."""
    matrix = TINY if tiny else MATRIX
    plain = [cell_name(g.generator, g.steps, *cell) for g in matrix for cell in g.cells()]
    return plain + [cell_name(generator, 1, verifier, "naive") for generator, verifier in naive_loops(tiny)]


def naive_loops(tiny: bool) -> list[tuple[str, str]]:
    """Return the pairs whose naive loop is measured."""
    return [("nano", "vhs")] if tiny else [("sana-sprint", "vhs"), ("sana-sprint", "mllm-clip")]


def measure_all(store: RunStore, matrix: Sequence[Group], device: str, options: argparse.Namespace) -> None:
    """Measure every group of the matrix and the naive loops that are not done yet, while there is time."""
    started = time.monotonic()
    for group in matrix:
        if time.monotonic() - started < options.seconds:
            side_by_side(store, group, device, options)
    for generator, verifier in naive_loops(options.tiny):
        if options.only in generator and time.monotonic() - started < options.seconds:
            naive(store, generator, verifier, device, (2,) if options.tiny else NAIVE_N, options.repeats)


def alone(function: Callable[..., T], *arguments: Any) -> T:
    """Return the result of a call that a process of its own makes, so that this one never holds the GPU."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=end_with_parent) as pool:
        return pool.submit(function, *arguments).result()


def options_of(generator: str, steps: int, device: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of the generator and of its verifier."""
    if generator == "nano":
        return {"device": device, "steps": steps}, {"device": device, "generator": "nano"}
    random = {"device": device, "dtype": "bfloat16"}
    return (
        random | {"weights": "random", "steps": steps},
        random | {"checkpoint": "random", "generator": generator},
    )


def side_by_side(store: RunStore, group: Group, device: str, options: argparse.Namespace) -> None:
    """Measure a group, unless that is done; a failure is noted in run.json and the rest goes on."""
    names = [cell_name(group.generator, group.steps, *cell) for cell in group.cells()]
    if all(store.has("costs", name) for name in names):
        return
    started = time.monotonic()
    generator, verifier = options_of(group.generator, group.steps, device)
    timing = TimingConfig(
        best_of_n=group.best_of_n,
        batch_sizes=group.batch_sizes,
        repeats=options.repeats,
        warm_up=0,  # the memory pass has called everything
        timeout_s=options.timeout,
    )
    cells = [
        Cell(
            group.generator, generator, judge or None, verifier if judge else {}, PROMPT, timing, variant=variant,
            shares=bool(judge),
        )
        for judge, variant in group.cells()
    ]  # fmt: skip
    try:
        measured = measure_in_turns(cells, store.measuring)
    except Exception as error:
        failures = store.info.get("failures", {})
        store.update(failures=failures | {names[0]: f"{type(error).__name__}: {error}"})
        print(f"{', '.join(names)}: {error}", flush=True)
        return
    for name, each in zip(names, measured, strict=True):
        note(store, name, each.about)
        store.write_shard("costs", name, pd.DataFrame(each.rows))
        print(f"{name}: passes took {each.about.get('seconds', {})} s", flush=True)
    print(f"together {time.monotonic() - started:.0f} s", flush=True)


def note(store: RunStore, name: str, about: dict[str, Any]) -> None:
    """Record what is known of a cell, with the environment that it is measured in."""
    here = len(store.info["environments"]) - 1
    store.update(cells=store.info.get("cells", {}) | {name: about | {"environment": here}})


def naive(
    store: RunStore, generator: str, verifier: str, device: str, ns: Sequence[int], repeats: int
) -> None:
    """Measure the naive loop beside the staged, batched one, interleaved in one process; rows of variant "naive"."""
    name = cell_name(generator, 1, verifier, "naive")
    if store.has("costs", name):
        return
    rows = alone(naive_rows, generator, verifier, tuple(ns), device, repeats)
    note(store, name, {})
    store.write_shard("costs", name, pd.DataFrame(rows))
    print(f"{name}: done", flush=True)


def naive_rows(
    generator: str, verifier: str, ns: tuple[int, ...], device: str, repeats: int
) -> list[dict[str, Any]]:
    from naive import naive_best_of_n

    from vhsbench import generators, verifiers
    from vhsbench.harness.cost.measure import device_name
    from vhsbench.harness.cost.nvml import Gpu, taints
    from vhsbench.harness.inference.best_of_n import best_of_n
    from vhsbench.harness.store.tables import SCHEMAS

    for_generator, for_verifier = options_of(generator, 1, device)
    g = generators.create(generator, **for_generator)
    v = verifiers.create(verifier, **for_verifier)
    calls = {("naive", n): lambda n=n: naive_best_of_n(g, v, PROMPT, range(n)) for n in ns}
    calls |= {("staged", n): lambda n=n: best_of_n(g, v, PROMPT, range(n), batch=n) for n in ns}
    gpu = Gpu.of(g.device)
    times = interleaved(calls, g.device, repeats=repeats, warm_up=1, taint=lambda: "; ".join(taints(gpu)))
    empty = dict.fromkeys(SCHEMAS["costs"].names)
    return [
        empty | {
            "generator": g.name, "steps": g.steps, "verifier": v.name, "variant": kind, "stage": "end_to_end",
            "n": n, "batch": n if kind == "staged" else 1, "repeat": i, "wall_ms": wall, "event_ms": event,
            "device": device_name(g.device), "status": "tainted" if taint else "ok", "note": taint,
        }
        for (kind, n), found in times.items()
        for i, (wall, event, taint) in enumerate(
            zip(found.wall_ms, found.event_ms, found.taints, strict=True)
        )
    ]  # fmt: skip


def matmul_tflops(device: str, size: int = 8192) -> float | None:
    """Time a bf16 matrix product, 2 x size^3 FLOPs, the best of ten: the measured peak; None on a CPU."""
    if device == "cpu":
        return None
    import torch

    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = interleaved({"matmul": lambda: a @ b}, torch.device(device), repeats=10, warm_up=3)["matmul"]
    return 2 * size**3 / (min(t for t in times.event_ms if t) * 1e9)


def summarise(out: Path, info: dict[str, Any]) -> None:
    """Write and print the tables of a measurement.

    T(N), N for the paper's budgets, FLOPs and memory by pipeline; all stages; naive against staged; VHS against
    MLLM w/ CLIP.
    """
    costs = sound(pd.read_parquet(out / "costs.parquet"))
    looped = costs["variant"].isin(LOOPS)
    stages = cost_table(costs[~looped])
    peak = info.get("matmul_tflops")
    stages["tflops_achieved"] = 1e3 * stages["tflop"] / stages["median_ms"]
    stages["share_of_matmul_percent"] = 100 * stages["tflops_achieved"] / peak if peak else None
    write_output(out / "stages.csv", csv_bytes(stages))
    rows = [row for key in costs[~looped].groupby(CELL).groups
            for statistic in ("median", "min") if (row := _pipeline(key, costs[~looped], info, statistic))]  # fmt: skip
    summary = pd.DataFrame(rows)
    write_output(out / "summary.csv", csv_bytes(summary))
    against = vhs_against_clip(summary)
    write_output(out / "vhs_against_clip.csv", csv_bytes(against))
    times = costs[looped].groupby(["generator", "verifier", "n", "variant"])["wall_ms"]
    loops = times.agg(["median", "min"]).unstack("variant")
    loops.columns = [f"{variant}_{statistic}_ms" for statistic, variant in loops.columns]
    for statistic in ("median", "min") if len(loops) else ():
        loops[f"naive_to_staged_{statistic}"] = (
            loops[f"naive_{statistic}_ms"] / loops[f"staged_{statistic}_ms"]
        )
    write_output(out / "naive.csv", csv_bytes(loops.reset_index()))
    with pd.option_context("display.width", 200, "display.max_columns", 30, "display.max_rows", 200):
        print(summary.to_string(index=False))
        print(against.to_string(index=False))
        print(loops.to_string())


def _pipeline(
    key: tuple[str, int, str, str], costs: pd.DataFrame, info: dict[str, Any], statistic: str
) -> dict[str, Any] | None:
    generator, steps, verifier, variant = key
    pool = of_pool(costs, generator, steps)
    part = pool[(pool["verifier"] == verifier) & (pool["variant"] == variant)]
    needs = info.get("cells", {}).get(cell_name(generator, steps, verifier, variant), {}).get("needs")
    if not budgets.is_measured(pool, verifier, needs, variant=variant):
        return None
    time_ms = budgets.fit(pool, verifier, needs, variant=variant, statistic=statistic)
    tflop = budgets.fit(pool, verifier, needs, "tflop", variant)
    energy = (
        budgets.fit(pool, verifier, needs, "energy_j", variant)
        if budgets.is_measured(pool, verifier, needs, "energy_j", variant)
        else None
    )
    errors = budgets.check(pool, verifier, time_ms, variant, statistic)["error_percent"].abs()
    whole = part[(part["stage"] == "end_to_end") & (part["batch"] == 1)]
    return {
        "generator": generator, "steps": steps, "verifier": verifier or "none", "variant": variant,
        "statistic": statistic, "repeats": int(part["repeat"].max()) + 1,
        "fixed_ms": time_ms.fixed, "per_candidate_ms": time_ms.per_candidate, "fit_error_percent": errors.max(),
        "tflop_fixed": tflop.fixed, "tflop_per_candidate": tflop.per_candidate,
        "energy_j_per_candidate": energy and energy.per_candidate,
        "peak_vram_gb": whole["peak_vram_gb"].max(), "peak_reserved_gb": whole["peak_reserved_gb"].max(),
        "nvml_gb": whole["nvml_gb"].max(),
        **{f"n_at_{b}ms": time_ms.largest_n(b, TOLERANCE) if verifier else None for b in PAPER_BUDGETS_MS},
        "device": part["device"].dropna().iloc[0],
    }  # fmt: skip


def vhs_against_clip(summary: pd.DataFrame) -> pd.DataFrame:
    """Compare VHS with MLLM w/ CLIP in percent; the paper says -63.3, -51 and -14.5 of time, FLOPs, VRAM."""
    columns = ["per_candidate_ms", "tflop_per_candidate", "energy_j_per_candidate", "peak_vram_gb"]
    plain = summary[summary["variant"] == ""].set_index([*POOL, "statistic"])
    vhs, clip = (plain.loc[plain["verifier"] == v, columns] for v in ("vhs", "mllm-clip"))
    return (100 * (vhs / clip - 1)).dropna(how="all").add_suffix("_percent").reset_index()


if __name__ == "__main__":
    main()
