"""Are times fair when something else works on the machine? Two registered copies of one verifier must cost the same.

    python benchmarks/noisy_neighbour.py --out FOLDER [--runs 20] [--quiet 3] [--cuda] [--only "in turns"] [--seconds 540]
    python benchmarks/noisy_neighbour.py --derive results/noisy/costs.parquet

A busy process is switched on and off while pipelines are measured: on and off for 2 to 8 seconds each, by the run's seed.
Each run measures the generator, VHS, a copy of it that is registered under another name, and MLLM w/ CLIP, in turns as
`vhsbench run` does, and each pipeline alone one after another, as it was before that. Both have the same calls and repeats.
In turns, pipelines are opened once and measured in all runs, and only their times are looked at; one after another,
every run opens them. `--cuda` measures SANA-Sprint with random weights on the GPU, which the busy process uses too; whole
runs, against which T(N) is checked, are then of one candidate alone, since they take most of the time and T(N) is not made of them.
`--quiet` adds runs without the busy process, spread among the others: what VHS / CLIP is to be compared with.
`--derive` measures nothing: it concludes again from rows that were kept, of several files too.
Writes costs.parquet (every row) and runs.csv after every run, and prints how often both copies got the same N. Started again
with the same --out, it makes the runs that are missing; `--seconds` starts none that would end later, by the longest so far.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402

from vhsbench.harness.common.atomic import write_output  # noqa: E402
from vhsbench.harness.common.shown import csv_bytes  # noqa: E402
from vhsbench.harness.cost import budgets  # noqa: E402
from vhsbench.harness.cost.cost_model import TOLERANCE  # noqa: E402
from vhsbench.harness.cost.measure import Cell  # noqa: E402
from vhsbench.harness.cost.reliability import unreliable  # noqa: E402
from vhsbench.harness.cost.rounds import Measured, measure, opened_in_turns  # noqa: E402
from vhsbench.harness.cost.timing import TimingConfig  # noqa: E402
from vhsbench.harness.cost.turns import interval, range_of_n  # noqa: E402

COPY = "vhs-copy"
NEEDS = {"vhs": "hidden", COPY: "hidden", "mllm-clip": "images"}
TURNS, ALONE = "in turns", "one after another"
BUSY, QUIET = "busy", "quiet"
WORK = {  # it says when it is at work, and ends with this process
    "cpu": "print(flush=True)\nwhile True: pass",
    "cuda": "import torch; a = torch.randn(4096, 4096, device='cuda'); a @ a; torch.cuda.synchronize(); print(flush=True)\n"
    "while True: a @ a; torch.cuda.synchronize()",
}
ENDS = "from vhsbench.harness.common.processes import kill_with_parent; kill_with_parent()\n"
ON_OFF_S = (2.0, 8.0)
Beside = Callable[[int], AbstractContextManager[None]]  # what runs beside a run, by its seed
SAMPLE = ["machine", "device", "neighbour", "method"]  # what kept runs are grouped by


class Run(NamedTuple):
    """One run; `run` is its seed."""

    neighbour: str
    method: str
    run: int


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    out = parser.add_mutually_exclusive_group(required=True)
    out.add_argument("--out", type=Path)
    out.add_argument(
        "--derive", type=Path, nargs="+", help="costs.parquet of earlier runs, to conclude from again"
    )
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--quiet", type=int, default=0, help="so many runs without the busy process")
    parser.add_argument("--first", type=int, default=0, help="seed of the first run")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--cuda", action="store_true", help="SANA-Sprint with random weights, on the GPU")
    parser.add_argument("--only", choices=[TURNS, ALONE], help="one method alone")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="start no run that would end later"
    )
    options = parser.parse_args(arguments)
    if options.derive:
        found = derive(pd.concat([pd.read_parquet(file) for file in options.derive]))
    else:
        with registered(COPY):
            found = measure_all(options)
    print(summary(found).to_string() if len(found) else "no run was made")


def measure_all(options: argparse.Namespace) -> pd.DataFrame:
    """Make the runs that are missing while there is time; returns what `result` says of all of them."""
    started, longest_s, file = time.monotonic(), 0.0, options.out / "costs.parquet"
    kept = [known(file, options)] if file.exists() else []
    found = [derive(rows) for rows in kept]
    done = {Run(*run) for rows in kept for run in rows[list(Run._fields)].itertuples(index=False, name=None)}
    if not (left := [run for run in plan(options) if run not in done]):
        return pd.concat(found)
    with ExitStack() as stack:
        beside: dict[str, Beside] = {QUIET: nullcontext}
        if any(run.neighbour == BUSY for run in left):
            beside[BUSY] = stack.enter_context(neighbour("cuda" if options.cuda else "cpu"))
        measuring = {ALONE: partial(one_after_another, options)}
        if any(run.method == TURNS for run in left):
            opened = opened_in_turns(cells(options, shares=True), passes=False)
            measuring[TURNS] = stack.enter_context(opened)
        print(f"ready after {time.monotonic() - started:.0f} s, {len(left)} runs left", flush=True)
        for run in left:
            if time.monotonic() - started + longest_s > options.seconds:
                print("no time is left for another run", flush=True)
                break
            with beside[run.neighbour](run.run):
                began = time.monotonic()
                measured = measuring[run.method]()
                took_s = time.monotonic() - began
            rows = pd.concat([pd.DataFrame(each.rows) for each in measured], ignore_index=True)
            kept.append(rows.assign(**run._asdict(), took_s=took_s, repeats=options.repeats))
            write_output(file, pd.concat(kept, ignore_index=True).to_parquet(index=False))
            found.append(derive(kept[-1]))
            print(found[-1].iloc[0].to_dict(), flush=True)
            write_output(options.out / "runs.csv", csv_bytes(pd.concat(found)))
            longest_s = max(longest_s, time.monotonic() - began)
    return pd.concat(found) if found else pd.DataFrame()


def known(file: Path, options: argparse.Namespace) -> pd.DataFrame:
    """Read the rows of earlier runs; ends with a sentence where they were made with other options."""
    rows = pd.read_parquet(file)
    asked = {"generator": "sana-sprint" if options.cuda else "nano", "repeats": options.repeats}
    for name, value in asked.items():
        if (rows[name] != value).any():
            raise SystemExit(
                f"{file} has runs with {name} {rows[name].iloc[0]}, not {value}; give another --out."
            )
    return rows


def plan(options: argparse.Namespace) -> list[Run]:
    """List all runs in order: the quiet ones are spread evenly among the others."""
    places = [
        ((number + 0.5) / count, neighbour, options.first + number)
        for neighbour, count in ((BUSY, options.runs), (QUIET, options.quiet))
        for number in range(count)
    ]
    methods = [options.only] if options.only else [TURNS, ALONE]
    return [Run(neighbour, method, seed) for _, neighbour, seed in sorted(places) for method in methods]


@contextmanager
def registered(name: str) -> Iterator[None]:
    """Register VHS under a second name, as an installed package does; for the processes that measure too."""
    with tempfile.TemporaryDirectory() as folder:
        about = Path(folder) / "copy_of_vhs-1.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: copy-of-vhs\nVersion: 1\n", encoding="utf-8"
        )
        entry = f"[vhsbench.verifiers]\n{name} = vhsbench.verifiers.loading:vhs\n"
        (about / "entry_points.txt").write_text(entry, encoding="utf-8")
        path = os.pathsep.join(filter(None, [folder, str(ROOT), os.environ.get("PYTHONPATH", "")]))
        os.environ["PYTHONPATH"] = path
        sys.path.insert(0, folder)
        yield


@contextmanager
def neighbour(device: str) -> Iterator[Beside]:
    """Start a busy process, stopped; yields what has it continued and stopped at random times, by a seed."""
    process = subprocess.Popen([sys.executable, "-c", ENDS + WORK[device]], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise SystemExit(f"the busy process ended with exit code {process.wait()}.")
        process.send_signal(signal.SIGSTOP)
        yield partial(switching, process)
    finally:
        process.kill()
        process.communicate()


@contextmanager
def switching(process: subprocess.Popen[bytes], seed: int) -> Iterator[None]:
    """Let the process work beside this one, on and off; it is stopped afterwards."""
    chance, over = random.Random(seed), threading.Event()

    def switch() -> None:
        on = True
        while not over.wait(chance.uniform(*ON_OFF_S)):
            on = not on
            process.send_signal(signal.SIGCONT if on else signal.SIGSTOP)

    process.send_signal(signal.SIGCONT)
    thread = threading.Thread(target=switch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        process.send_signal(signal.SIGSTOP)


def cells(options: argparse.Namespace, shares: bool) -> list[Cell]:
    timing = TimingConfig(best_of_n=(1,) if options.cuda else (1, 4), repeats=options.repeats)
    prompt = "a photo of a red circle above a blue square"
    generator: tuple[str, dict[str, Any]] = ("nano", {})
    verifier: dict[str, Any] = {"generator": "nano"}
    if options.cuda:
        random_weights = {"device": "cuda", "dtype": "bfloat16"}
        generator = ("sana-sprint", random_weights | {"weights": "random"})
        verifier = random_weights | {"checkpoint": "random", "generator": "sana-sprint"}
    return [
        Cell(*generator, name, verifier if name else {}, prompt, timing, None if options.cuda else 1,
             shares=shares and name is not None)
        for name in (None, *NEEDS)
    ]  # fmt: skip


def one_after_another(options: argparse.Namespace) -> list[Measured]:
    context, measured = multiprocessing.get_context("spawn"), []
    for cell in cells(options, shares=False):
        with context.Pool(1) as pool:
            measured.append(pool.apply(alone, (cell,)))
    return measured


def alone(cell: Cell) -> Measured:
    return measure(cell)


def result(costs: pd.DataFrame) -> dict[str, Any]:
    """Return T(4), N for CLIP's T(4), whether the copies' agree in them, and whether times are called reliable."""
    models = {name: budgets.fit(costs, name, needs) for name, needs in NEEDS.items()}
    (budget,) = budgets.default_budgets(models["mllm-clip"], TOLERANCE, (4,))
    n = {name: model.largest_n(budget, TOLERANCE) for name, model in models.items()}
    ranges = [range_of_n(models[name], budget, TOLERANCE) for name in ("vhs", COPY)]
    return {
        "n": n["vhs"], "n_copy": n[COPY], "t4_ms": models["vhs"].predict(4), "t4_copy_ms": models[COPY].predict(4),
        "agree": meet(interval(models["vhs"], 4), interval(models[COPY], 4)), "n_agree": meet(*ranges),
        "vhs_to_clip": models["vhs"].per_candidate / models["mllm-clip"].per_candidate,
        "reliable": not unreliable(costs, NEEDS),
    }  # fmt: skip


def derive(costs: pd.DataFrame) -> pd.DataFrame:
    """Return what `result` says of each run of kept rows, with the seconds that it took."""
    which = [column for column in (*SAMPLE, "run") if column in costs]
    return pd.DataFrame([
        dict(zip(which, key, strict=True)) | result(run) | {"took_s": run["took_s"].iloc[0]}
        for key, run in costs.groupby(which)
    ])  # fmt: skip


def meet(first: tuple[float, float] | None, second: tuple[float, float] | None) -> bool | None:
    """Return whether two intervals have anything in common; None where one is not known."""
    return None if first is None or second is None else first[0] <= second[1] and second[0] <= first[1]


def known_sum(values: pd.Series) -> Any:
    """Add up what is known; NA where nothing is."""
    return values.sum(min_count=1)


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Return how often both copies got the same N, and by how much the larger T(4) exceeds the smaller.

    `agree` counts runs in which the copies' intervals of T(4) meet, `n_agree` those in which the 95% ranges of N do, of
    `known` runs that have both; empty where none has.
    """
    t4 = ["t4_ms", "t4_copy_ms"]
    found = found.assign(
        same_n=found["n"] == found["n_copy"],
        **{name: found[name].astype("boolean").astype("Int64") for name in ("agree", "n_agree")},
        t4_off_percent=100 * (found[t4].max(axis=1) / found[t4].min(axis=1) - 1),
    )
    return found.groupby([column for column in SAMPLE if column in found]).agg(
        runs=("run", "size"), same_n=("same_n", "sum"), known=("agree", "count"), n_agree=("n_agree", known_sum), agree=("agree", known_sum), reliable=("reliable", "sum"),
        t4_off_percent=("t4_off_percent", "median"), t4_off_most=("t4_off_percent", "max"),
        vhs_to_clip=("vhs_to_clip", "median"), vhs_to_clip_low=("vhs_to_clip", "min"),
        vhs_to_clip_high=("vhs_to_clip", "max"), took_s=("took_s", "median"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
