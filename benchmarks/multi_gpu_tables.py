"""The summaries of multi_gpu.py's parts: rates, efficiencies, memory, differences of losses and of costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from vhsbench.harness.common.atomic import write_atomic
from vhsbench.harness.common.shown import csv_bytes
from vhsbench.harness.cost.sound import sound

WARM_UP = {"align": 1, "finetune": 5}  # steps left out of the times


def write(out: Path) -> None:
    """Write and print every summary of which there are parts."""
    read = {
        file.stem: json.loads(file.read_text(encoding="utf-8"))
        for file in sorted((out / "parts").glob("*.json"))
    }
    done = {name: part for name, part in read.items() if part["status"] == "ok"}
    every = [
        {"part": name, "status": part["status"], "seconds": part["seconds"]} for name, part in read.items()
    ]
    tables = {
        "parts": every, "sweeps": sweeps(done), "equality": equality(done), "training": training(done),
        "losses": losses(done), "data": data(done), "costs": costs(done), "reduce": reduced(done),
    }  # fmt: skip
    for name, rows in tables.items():
        if rows:
            table = pd.DataFrame(rows)
            write_atomic(out / f"{name}.csv", csv_bytes(table))
            if name != "losses":
                with pd.option_context("display.width", 250, "display.max_columns", 40):
                    print(f"\n{name}\n{table.to_string(index=False)}", flush=True)


def sweeps(done: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rates of sweeps, and of one alone on its GPU as the measure of efficiency."""
    rows = []
    for name, part in done.items():
        if "workers" not in part:
            continue
        shards, workers = part["finished_s"], part["workers"]
        first, last = window(len(shards), workers)
        each = part["candidates"] / len(shards)
        seconds = shards[last] - shards[first]
        gpus = sorted({row[1] for row in part["cards"]})
        began, killed = part["started"], part.get("killed")
        rate = None if killed else each * (last - first) / seconds  # one that was disturbed has none
        rows.append(
            {
                "part": part.get("sweep", name), "gpus": part["gpus"], "workers": workers, "shards": len(shards),
                "candidates": part["candidates"], "first_shard_s": shards[0], "last_shard_s": shards[-1],
                "steady_shards": last - first, "steady_s": round(seconds, 2),
                "images_per_s": rate,
                "whole_images_per_s": part["candidates"] / shards[-1],
                **{f"busy_percent_{g}": _mean(part, g, 3, began + shards[first], began + shards[last])
                   for g in gpus},
                **{f"{k}_gb_{g}": v for g in gpus for k, v in _memory(part, g).items()},
                **(_freed(part, killed, gpus) if killed else {}),
            }
        )  # fmt: skip
    rates = {row["part"]: row["images_per_s"] for row in rows}
    for row in rows:
        alone, rate = rates.get("sweep-1"), row["images_per_s"]
        row["efficiency"] = rate / row["gpus"] / alone if alone and rate else None
    return rows


def _freed(part: dict[str, Any], killed: float, gpus: list[int]) -> dict[str, Any]:
    """Return when a worker was killed, the memory that its GPU then lost, and within what time."""
    best = {"killed_s": round(killed - part["started"], 1), "freed_gb": None, "freed_within_s": None}
    for gpu in gpus:
        rows = [row for row in part["cards"] if row[1] == gpu]
        before = [row[2] for row in rows if row[0] <= killed][-1]
        soon = [row for row in rows if killed < row[0] < killed + 10]
        least = min(soon, key=lambda row: row[2])
        if before - least[2] > (best["freed_gb"] or 1):
            best |= {"freed_gb": round(before - least[2], 2), "freed_within_s": round(least[0] - killed, 1)}
    return best


def window(shards: int, workers: int) -> tuple[int, int]:
    """Return the first and last finished shard of steady work: without each worker's first two and last.

    A multiple of the workers, so that each has done as many in between.
    """
    first, last = 2 * workers, shards - workers
    if last <= first:
        first, last = workers, shards
    return first - 1, last - 1


def equality(done: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"part": part.get("sweep", name), "other": other.split("/")[0], "table": other.split("/")[1], **facts}
        for name, part in done.items()
        for other, facts in part.get("same", {}).items()
    ]


def training(done: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rates of both stages; efficiency and losses against one process's, or those of the undisturbed."""
    trained = {name: part for name, part in done.items() if "sharding" in part}
    rows = []
    for name, part in trained.items():
        killed = "killed" in part
        reference = "train-ddp" if killed else "train-1"
        other = trained.get(reference)
        for stage, batch in part["batches"].items():
            steps, step_s = _step_s(part, stage)
            row = {
                "part": name, "processes": part["processes"], "sharding": part["sharding"], "stage": stage,
                "batch": batch, "steps": steps, "step_s": None if killed else step_s,
                "samples_per_s": None if killed else batch / step_s, "peak_gb": _added(part),
            }  # fmt: skip
            if other is not None and other["batches"] == part["batches"]:
                if not killed:
                    row["efficiency"] = _step_s(other, stage)[1] / step_s / part["processes"]
                row |= {"losses_against": reference, **_difference(part, other, stage)}
            rows.append(row)
    return rows


def _step_s(part: dict[str, Any], stage: str) -> tuple[int, float]:
    """Return how many steps were timed, and the mean of their seconds."""
    curve = _curve(part, stage)
    first, last = min(WARM_UP[stage], len(curve) - 1), len(curve)
    return last - first, (curve[last][1] - curve[first][1]) / (last - first)


def _difference(part: dict[str, Any], other: dict[str, Any], stage: str) -> dict[str, float]:
    mine, its = _curve(part, stage), _curve(other, stage)
    if mine.keys() != its.keys():
        raise ValueError(f"curves of {stage} have other steps")
    off = max(abs(mine[step][0] - its[step][0]) / abs(its[step][0]) for step in mine)
    return {
        "largest_loss_difference": off, "first_loss": mine[1][0], "last_loss": mine[len(mine)][0],
    }  # fmt: skip


def _added(part: dict[str, Any]) -> float | None:
    """Return the most GB that a GPU held beyond what it did before."""
    return max((_memory(part, gpu)["added"] for gpu in {row[1] for row in part["cards"]}), default=None)


def _curve(part: dict[str, Any], stage: str) -> dict[int, tuple[float, float]]:
    """Return loss and seconds by step."""
    return {
        step: (loss, seconds)
        for its, step, split, loss, seconds in part["rows"]
        if its == stage and split == "train"
    }


def losses(done: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"part": name, "stage": stage, "step": step, "split": split, "loss": loss, "seconds": seconds}
        for name, part in done.items()
        if "sharding" in part
        for stage, step, split, loss, seconds in part["rows"]
    ]


def data(done: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the images a second of `train data`."""
    rows: list[dict[str, Any]] = []
    for name, part in done.items():
        if "shard_size" not in part:
            continue
        shards = part["finished_s"]
        first, last = window(len(shards), part["processes"])
        seconds = shards[last] - shards[first]
        rate = part["shard_size"] * (last - first) / seconds
        alone = rows[0]["images_per_s"] if rows else rate
        rows.append(
            {
                "part": name, "processes": part["processes"], "images": part["shard_size"] * len(shards),
                "first_shard_s": shards[0], "last_shard_s": shards[-1], "steady_images": part["shard_size"] * (last - first),
                "steady_s": round(seconds, 2), "images_per_s": rate,
                "efficiency": rate / part["processes"] / alone, "ended": part["ended"],
            }
        )  # fmt: skip
    return rows


def costs(done: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare each call's times with the other GPU idle and busy."""
    if "costs" not in done:
        return []
    table = sound(pd.DataFrame(done["costs"]["rows"]))
    times = table.groupby(["stage", "n", "batch", "neighbour"], as_index=False)["wall_ms"].agg(
        ["median", "min", "max"]
    )
    wide = times.pivot(index=["stage", "n", "batch"], columns="neighbour", values=["median", "min", "max"])
    wide.columns = [f"{statistic}_ms_{neighbour}" for statistic, neighbour in wide.columns]
    for statistic in ("median", "min"):
        wide[f"busy_to_idle_{statistic}"] = wide[f"{statistic}_ms_busy"] / wide[f"{statistic}_ms_idle"]
    return wide.reset_index().to_dict("records")


def reduced(done: dict[str, Any]) -> list[dict[str, Any]]:
    """Tabulate the bus bandwidth of an all-reduce, as NCCL's tests count it."""
    if "reduce" not in done:
        return []
    part = done["reduce"]
    n, median = part["processes"], float(pd.Series(part["seconds_each"]).median())
    bandwidth = 2 * (n - 1) / n * part["bytes"] / median / 1e9
    return [{"processes": n, "bytes": part["bytes"], "median_s": median, "bus_gb_per_s": bandwidth}]


def _mean(part: dict[str, Any], gpu: int, column: int, start: float, end: float) -> float | None:
    values = [row[column] for row in part["cards"] if row[1] == gpu and start <= row[0] <= end]
    return round(sum(values) / len(values), 1) if values else None


def _memory(part: dict[str, Any], gpu: int) -> dict[str, float]:
    """Return GB in use before, at most, and after."""
    used = [row[2] for row in part["cards"] if row[1] == gpu]
    return {"before": used[0], "peak": max(used), "after": used[-1], "added": round(max(used) - used[0], 2)}
