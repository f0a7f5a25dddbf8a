"""Are times fair when something else works on the machine? Two registered copies of one verifier must cost the same.

    python benchmarks/noisy_neighbour.py --out FOLDER [--runs 20] [--cuda] [--quiet]
    python benchmarks/noisy_neighbour.py --derive results/noisy/costs.parquet

A busy process is switched on and off while pipelines are measured: on and off for 2 to 8 seconds each, by the run's seed.
Each run measures the generator, VHS, a copy of it that is registered under another name, and MLLM w/ CLIP, in turns as
`vhsbench run` does, and each pipeline alone one after another, as it was before that. Both have the same calls and repeats.
`--cuda` measures SANA-Sprint with random weights on the GPU, which the busy process uses too. `--quiet` leaves it out.
`--derive` measures nothing: it concludes again from rows that were kept.
Writes costs.csv (every row) and summary.csv, and prints how often both copies got the same N.
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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import pandas as pd  # noqa: E402

from vhsbench.harness.cost import budgets  # noqa: E402
from vhsbench.harness.cost.cost_model import TOLERANCE, CostModel  # noqa: E402
from vhsbench.harness.cost.measure import Cell  # noqa: E402
from vhsbench.harness.cost.reliability import unreliable  # noqa: E402
from vhsbench.harness.cost.rounds import Measured, measure, measure_in_turns  # noqa: E402
from vhsbench.harness.cost.timing import TimingConfig  # noqa: E402
from vhsbench.harness.cost.turns import interval  # noqa: E402

COPY = "vhs-copy"
NEEDS = {"vhs": "hidden", COPY: "hidden", "mllm-clip": "images"}
TURNS, ALONE = "in turns", "one after another"
BUSY = {
    "cpu": "while True: pass",
    "cuda": "import torch; a = torch.randn(4096, 4096, device='cuda')\nwhile True: a @ a; torch.cuda.synchronize()",
}
ON_OFF_S = (2.0, 8.0)
SAMPLE = ["machine", "device", "neighbour", "method"]  # what kept runs are grouped by


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    out = parser.add_mutually_exclusive_group(required=True)
    out.add_argument("--out", type=Path)
    out.add_argument("--derive", type=Path, help="costs.parquet of earlier runs, to conclude from again")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="seed of the first run")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--cuda", action="store_true", help="SANA-Sprint with random weights, on the GPU")
    parser.add_argument(
        "--quiet", action="store_true", help="without the busy process: what is to be compared with"
    )
    parser.add_argument("--only", choices=[TURNS, ALONE], help="one method alone")
    options = parser.parse_args(arguments)
    if options.derive:
        print(summary(derive(pd.read_parquet(options.derive))).to_string())
        return
    options.out.mkdir(parents=True, exist_ok=True)
    with registered(COPY):
        rows, found = [], []
        for seed in range(options.first, options.first + options.runs):
            for method in [options.only] if options.only else [TURNS, ALONE]:
                took_s, costs = one_run(method, seed, options)
                rows.append(costs.assign(run=seed, method=method))
                found.append(result(costs) | {"run": seed, "method": method, "took_s": took_s})
                print(found[-1], flush=True)
                pd.concat(rows).to_csv(options.out / "costs.csv", index=False)
                pd.DataFrame(found).to_csv(options.out / "summary.csv", index=False)
    print(summary(pd.DataFrame(found)).to_string())


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
def neighbour(seed: int, device: str, quiet: bool) -> Iterator[None]:
    """Keep a process busy beside this one, stopped and continued at random times."""
    if quiet:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", BUSY[device]])
    chance, over = random.Random(seed), threading.Event()

    def switch() -> None:
        on = True
        while not over.wait(chance.uniform(*ON_OFF_S)):
            on = not on
            process.send_signal(signal.SIGCONT if on else signal.SIGSTOP)

    thread = threading.Thread(target=switch)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        process.kill()
        process.wait()


def cells(options: argparse.Namespace, shares: bool) -> list[Cell]:
    timing = TimingConfig(best_of_n=(1, 4), repeats=options.repeats)
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


def one_run(method: str, seed: int, options: argparse.Namespace) -> tuple[float, pd.DataFrame]:
    with neighbour(seed, "cuda" if options.cuda else "cpu", options.quiet):
        started = time.monotonic()
        if method == TURNS:
            measured = measure_in_turns(cells(options, shares=True))
        else:
            context = multiprocessing.get_context("spawn")
            measured = []
            for cell in cells(options, shares=False):
                with context.Pool(1) as pool:
                    measured.append(pool.apply(alone, (cell,)))
        took_s = time.monotonic() - started
    return took_s, pd.concat([pd.DataFrame(each.rows) for each in measured], ignore_index=True)


def alone(cell: Cell) -> Measured:
    return measure(cell)


def result(costs: pd.DataFrame) -> dict[str, Any]:
    """Return T(4) and its interval, N for CLIP's T(4), and whether times are called reliable."""
    models = {name: budgets.fit(costs, name, needs) for name, needs in NEEDS.items()}
    (budget,) = budgets.default_budgets(models["mllm-clip"], TOLERANCE, (4,))
    n = {name: model.largest_n(budget, TOLERANCE) for name, model in models.items()}
    return {
        "n": n["vhs"], "n_copy": n[COPY], "t4_ms": models["vhs"].predict(4), "t4_copy_ms": models[COPY].predict(4),
        "agree": overlap(models["vhs"], models[COPY]),
        "vhs_to_clip": models["vhs"].per_candidate / models["mllm-clip"].per_candidate,
        "reliable": not unreliable(costs, NEEDS),
    }  # fmt: skip


def derive(costs: pd.DataFrame) -> pd.DataFrame:
    """Return what `result` says of each run of kept rows, with the seconds that it took."""
    runs = costs.groupby([*SAMPLE, "run"])
    return pd.DataFrame([
        dict(zip([*SAMPLE, "run"], key, strict=True)) | result(run) | {"took_s": run["took_s"].iloc[0]}
        for key, run in runs
    ])  # fmt: skip


def overlap(one: CostModel, other: CostModel) -> bool | None:
    """Return whether the intervals of both T(4) meet; None where one has none."""
    first, second = interval(one, 4), interval(other, 4)
    return None if first is None or second is None else first[0] <= second[1] and second[0] <= first[1]


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Return how often both copies got the same N, and by how much the larger T(4) exceeds the smaller."""
    t4 = ["t4_ms", "t4_copy_ms"]
    found = found.assign(
        same_n=found["n"] == found["n_copy"],
        t4_off_percent=100 * (found[t4].max(axis=1) / found[t4].min(axis=1) - 1),
    )
    return found.groupby([column for column in SAMPLE if column in found]).agg(
        runs=("run", "size"), same_n=("same_n", "sum"), agree=("agree", "sum"), reliable=("reliable", "sum"),
        t4_off_percent=("t4_off_percent", "median"), t4_off_most=("t4_off_percent", "max"),
        vhs_to_clip=("vhs_to_clip", "median"), vhs_to_clip_low=("vhs_to_clip", "min"),
        vhs_to_clip_high=("vhs_to_clip", "max"), took_s=("took_s", "median"),
    )  # fmt: skip


if __name__ == "__main__":
    main()
