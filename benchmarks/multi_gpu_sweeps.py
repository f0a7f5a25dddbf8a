"""Sweeps by Ray on several GPUs, one whose worker is killed, and costs beside one; tables are compared."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import yaml
from multi_gpu_bench import CLI, Bench, Facts
from processes import Command

from vhsbench.harness.cost.measure import Cell
from vhsbench.harness.cost.rounds import measure_in_turns
from vhsbench.harness.cost.timing import TimingConfig


def sweep(
    bench: Bench, name: str, gpus: int, workers: int, share: float, until: float,
    *, rounds: int | None = None, kill: bool = False,
) -> Facts:  # fmt: skip
    """Sweep by Ray, in so many shards a GPU; `kill` ends a worker once two shards are there."""
    folder, shards = bench.folder(name), gpus * (rounds or bench.sizes.rounds)
    ray = ["--engine", "ray", "--workers", str(workers), "--gpus-per-worker", str(share)]
    with sweeping(bench, folder, shards, ray, until, bench.cards(*range(gpus))) as command:
        killed: float | None = None
        if kill:
            command.wait(lambda: len(finished(folder)) >= 2)
            killed = command.kill_one(is_worker)
        all_shards(command, folder, shards)
    return {
        "gpus": gpus, "workers": workers, "gpus_per_worker": share, "killed": killed,
        **shards_of(folder, command.started), "same": same(bench.work, folder),
    }  # fmt: skip


def sweeping(
    bench: Bench, folder: Path, shards: int, engine: list[str], until: float, env: Mapping[str, str]
) -> Command:
    """Return the command of a sweep of so many shards of eight prompts."""
    limit = min(bench.sizes.prompts, 8 * shards)
    config = {
        **bench.sizes.sweep,
        "prompts": {**bench.sizes.sweep["prompts"], "limit": limit},
        "seeds": list(range(8 * shards // limit)),
        "device": bench.sizes.device, "gallery_prompts": 0,
    }  # fmt: skip
    (folder / "sweep.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    run = ["run", str(folder / "sweep.yaml"), "--out", str(folder / "run"), "--json"]
    return Command([sys.executable, *CLI, *run, *engine], folder / "log.txt", until, env)


def is_worker(process: psutil.Process) -> bool:
    """Return whether it is a worker of Ray's."""
    return process.name().startswith("ray::_Actor")


def finished(folder: Path) -> list[float]:
    """Return when each shard of a sweep was there (seconds since the epoch), in order."""
    return sorted(file.stat().st_mtime for file in shard_files(folder, "candidates"))


def shard_files(folder: Path, table: str) -> list[Path]:
    return list((folder / "run" / "shards" / table).glob("[!.]*.parquet"))


def all_shards(command: Command, folder: Path, shards: int) -> None:
    """Wait for the shards and the workers' end; costs, which come next, are a part of their own."""

    def done() -> bool:
        return len(finished(folder)) == shards and not any(is_worker(p) for p in command.family())

    status = command.wait(done, check=False)
    if len(finished(folder)) != shards:
        command.failed(status)


def shards_of(folder: Path, started: float) -> Facts:
    return {
        "started": started, "candidates": len(table_of(folder, "candidates")),
        "finished_s": [round(t - started, 3) for t in finished(folder)],
    }  # fmt: skip


def table_of(folder: Path, table: str) -> pd.DataFrame:
    """Return all rows of a sweep's table, in one order."""
    rows = pd.concat([pd.read_parquet(file) for file in shard_files(folder, table)])
    order = [key for key in ("generator", "verifier", "seed", "prompt_id", "index") if key in rows]
    return rows.sort_values(order, ignore_index=True)


def same(work: Path, folder: Path) -> Facts:
    """Return whether tables equal those of every other sweep, in the seeds that both have, and how much they differ."""
    found = {}
    for other in sorted(f.parent for f in work.glob("sweep-*/run") if f.parent != folder):
        for table in ("candidates", "scores"):
            a, b = table_of(folder, table), table_of(other, table)
            shared = set(a["seed"]) & set(b["seed"])
            a, b = (t[t["seed"].isin(shared)].reset_index(drop=True) for t in (a, b))
            facts: Facts = {"rows": len(a), "equal": a.equals(b)}
            if table == "scores" and len(a) == len(b):
                facts["largest_difference"] = float((a["score"] - b["score"]).abs().max())
                facts["distinct"] = int(a["score"].nunique())
            if table == "candidates" and len(a) == len(b):
                facts["other_verdicts"] = int((a["correct"] != b["correct"]).sum())
            found[f"{other.name}/{table}"] = facts
    return found


def costs(bench: Bench, until: float) -> Facts:
    """Measure a cell's costs on the first GPU while the last one sweeps by the local engine, and when it is idle."""
    folder = bench.folder("sweep-local")
    shards = bench.sizes.rounds
    rows = []
    with sweeping(bench, folder, shards, [], until, bench.cards(bench.gpus - 1)) as command:
        command.wait(lambda: len(finished(folder)) >= 1)
        began = time.time()
        rows += [row | {"neighbour": "busy"} for row in cell(bench, until)]
        busy_s, left = time.time() - began, shards - len(finished(folder))
        all_shards(command, folder, shards)
    began = time.time()
    rows += [row | {"neighbour": "idle"} for row in cell(bench, until)]
    return {
        "rows": rows, "busy": [round(began - command.started, 1), busy_s], "shards_left": left,
        **shards_of(folder, command.started), "sweep": folder.name, "gpus": 1, "workers": 1, "same": same(bench.work, folder),
    }  # fmt: skip


def cell(bench: Bench, until: float) -> list[dict[str, Any]]:
    generator, generator_options, verifier, verifier_options = bench.sizes.cell
    timing = TimingConfig(
        best_of_n=(1, 4),
        batch_sizes=(4,),
        repeats=10,
        warm_up=1,
        timeout_s=max(1.0, until - time.monotonic()),
    )
    prompt = "a photo of a red circle above a blue square"
    threads = bench.sizes.sweep["threads"]
    (measured,) = measure_in_turns(
        [Cell(generator, dict(generator_options), verifier, dict(verifier_options), prompt, timing, threads)]
    )
    kept = ("stage", "n", "batch", "repeat", "wall_ms", "event_ms", "energy_j", "status", "note")
    return [{key: row[key] for key in kept} for row in measured.rows]
