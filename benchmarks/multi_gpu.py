"""Sweeps and trainings on several GPUs of one machine, at full size with random weights.

    python benchmarks/multi_gpu.py --out results/h100x2 [--gpus 2] [--seconds 540] [--only sweep] [--tiny]

Each part runs the command line itself in processes of its own, within a time limit, and leaves parts/<name>.json;
started again with the same --out, what is not done is done. A part that fails says so in its file, and the next
begins. The summaries (multi_gpu_tables.py) are derived from those files alone: `--derive` only does that.
`--tiny` is nano and tiny LLMs on the CPU, Ray with logical GPUs, gloo: a dry run of this very script.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import multi_gpu_tables
from multi_gpu_bench import FULL, TINY, Bench, Part
from multi_gpu_sweeps import costs, sweep
from multi_gpu_training import data, reduce, train, train_killed
from processes import Cards, TooSlow

from vhsbench.harness.common.atomic import write_atomic
from vhsbench.harness.cost import nvml
from vhsbench.harness.cost.environment import environment

ROOT = Path(__file__).parents[1]
FRACTION = 16  # train-sixteenth has the recipe's batches for one of so many GPUs
# NVLink multicast stays off wherever GPUs are shared with others, no model is looked for on the hub, and CPU
# threads sleep while they wait, as the command line has them
for name, value in {
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NVSHMEM_DISABLE_NVLS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}.items():
    os.environ.setdefault(name, value)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="results, all small")
    parser.add_argument(
        "--work", type=Path, help="features, runs and checkpoints; default: a temporary folder"
    )
    parser.add_argument("--gpus", type=int, default=nvml.count() or 2, help="how many to use")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end within this time")
    parser.add_argument("--only", default="", help="parts whose names begin with one of these, by commas")
    parser.add_argument("--rounds", type=int, help="shards a GPU and sweep")
    parser.add_argument("--steps", type=int, help="optimiser steps of fine-tuning")
    parser.add_argument("--tiny", action="store_true", help="small models on the CPU: a dry run")
    parser.add_argument("--derive", action="store_true", help="run nothing: only the summaries of --out")
    options = parser.parse_args(arguments)
    (options.out / "parts").mkdir(parents=True, exist_ok=True)
    sizes = TINY if options.tiny else FULL
    given = {key: value for key in ("rounds", "steps") if (value := getattr(options, key))}
    with tempfile.TemporaryDirectory() as temporary:
        bench = Bench(options.work or Path(temporary), options.gpus, dataclasses.replace(sizes, **given))
        if not options.derive:
            here = {**environment(), "topology": topology()}
            write_atomic(options.out / "environment.json", json.dumps(here, indent=1).encode() + b"\n")
            measure(bench, options.out, options.only.split(","), time.monotonic() + options.seconds)
    multi_gpu_tables.write(options.out)


def parts(bench: Bench) -> list[Part]:
    """Return all parts, first what is missed most if time runs out."""
    g, half = bench.gpus, bench.sizes.rounds // 2
    every = [
        Part("sweep-1", partial(sweep, bench, "sweep-1", 1, 1, 1.0), 110, 200),
        Part("sweep-all", partial(sweep, bench, "sweep-all", g, g, 1.0), 110, 200),
        Part("sweep-halves", partial(sweep, bench, "sweep-halves", g, 2 * g, 0.5), 125, 240),
        Part("costs", partial(costs, bench), 140, 240),
        Part("train-1", partial(train, bench, "train-1", 1), 120, 200),
        Part("train-ddp", partial(train, bench, "train-ddp", g), 75, 150),
        Part("train-fsdp", partial(train, bench, "train-fsdp", g, sharding="fsdp"), 80, 150),
        Part(
            "sweep-killed", partial(sweep, bench, "sweep-killed", g, g, 1.0, rounds=half, kill=True), 105, 200
        ),
        Part("train-sixteenth", partial(train, bench, "train-sixteenth", 1, fraction=FRACTION), 65, 120),
        Part("reduce", partial(reduce, bench), 25, 60),
        Part("data-1", partial(data, bench, "data-1", 1), 60, 100),
        Part("data-all", partial(data, bench, "data-all", g), 60, 100),
        Part("train-killed", partial(train_killed, bench), 110, 200),
    ]
    several = {"costs"} if g == 1 else set()
    sharded = set() if bench.on_gpu else {"train-fsdp"}  # accelerate offers it on GPUs alone
    return [part for part in every if part.name not in several | sharded]


def topology() -> list[str]:
    """Return how the GPUs are linked, as nvidia-smi draws it."""
    try:
        drawn = subprocess.run(
            ["nvidia-smi", "topo", "-m"], capture_output=True, encoding="utf-8", check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return []
    return re.sub(r"\x1b\[\d*m", "", drawn.stdout).splitlines()


def measure(bench: Bench, out: Path, only: Sequence[str], until: float) -> None:
    """Do every part that is not done, while there is time for all that it may take."""
    for part in parts(bench):
        file = out / "parts" / f"{part.name}.json"
        if not part.name.startswith(tuple(only)):
            continue
        if file.exists() and json.loads(file.read_text(encoding="utf-8"))["status"] == "ok":
            continue
        if time.monotonic() + part.expected_s > until:
            print(f"{part.name}: no time is left for it.", flush=True)
            continue
        started = time.monotonic()
        with Cards() as cards:
            try:
                found = {"status": "ok", **part.run(min(until, started + part.limit_s))}
            except TooSlow as error:
                found = {"status": f"not done: {error}"}
            except Exception as error:  # whatever it is, the next part can do without this one
                found = {"status": f"failed: {type(error).__name__}: {error}"}
        found["seconds"] = round(time.monotonic() - started, 1)
        found["cards"] = cards.rows
        write_atomic(file, json.dumps(found, indent=None, separators=(",", ":")).encode() + b"\n")
        print(f"{part.name}: {found['status']}, {found['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
