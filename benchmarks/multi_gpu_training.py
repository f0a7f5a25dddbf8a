"""Trainings and their data on several GPUs: rates, losses, a process killed, and the all-reduce between them."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import full_size_training
import pandas as pd
import yaml
from multi_gpu_bench import CLI, Bench, Facts
from processes import Command, CommandFailed


def train(
    bench: Bench, name: str, processes: int, until: float, *, sharding: str = "none", fraction: int = 1
) -> Facts:
    """Train both stages in so many processes; `fraction` divides their batches."""
    folder = bench.folder(name)
    command = training(bench, folder, processes, sharding, fraction, 1000)
    with Command(command, folder / "log.txt", until, bench.cards(*range(processes))) as running:
        running.wait()
    return {
        "processes": processes, "sharding": sharding, "batches": batches(folder), "started": running.started,
        "rows": statistics(folder), "micro_batch": min(bench.sizes.micro_batch, bench.sizes.batch // fraction),
    }  # fmt: skip


def train_killed(bench: Bench, until: float) -> Facts:
    """Train as train-ddp, but kill the second process in fine-tuning after a state, and give the command again."""
    folder = bench.folder("train-killed")
    sizes, out = bench.sizes, folder / "out"

    def second(process: Any) -> bool:
        return process.environ().get("RANK") == "1" and "verifier" in process.cmdline()

    command = training(bench, folder, bench.gpus, "none", 1, sizes.save_every)
    with Command(command, folder / "log.txt", until, bench.all_cards) as first:
        first.wait(lambda: any(f.suffix != ".tmp" for f in out.glob("state/finetune-0*")))
        killed, killed_s = first.kill_one(second), time.monotonic()
        status = first.wait(check=False)
        ended_after_s = time.monotonic() - killed_s
    state = max(f.name for f in out.glob("state/finetune-0*"))
    command += ["--set", "engine.save_every=1000"]
    with Command(command, folder / "log.txt", until, bench.all_cards) as again:
        again.wait()
    return {
        "processes": bench.gpus, "sharding": "none", "batches": batches(folder), "started": again.started,
        "rows": statistics(folder),
        "killed": killed, "exit_status": status, "ended_after_s": round(ended_after_s, 1), "state": state,
        "micro_batch": sizes.micro_batch,
    }  # fmt: skip


def training(
    bench: Bench, folder: Path, processes: int, sharding: str, fraction: int, save_every: int
) -> list[str]:
    """Return the command of a training of VHS on random features of the true shape, made once."""
    sizes, features = bench.sizes, bench.work / "features"
    if not (features / "validation" / "manifest.json").exists():
        full_size_training.make_llm(features / "llm", sizes.training)
        full_size_training.make_data(features, sizes.training)
    config = {
        "name": folder.name, "generator": {"name": "sana-sprint"},
        "verifier": {"kind": "vhs", "block": 7, "llm": {"name": str(features / "llm")}},
        "data": {"train": str(features / "train"), "validation": str(features / "validation")},
        "align": {"batch": sizes.align_batch // fraction, "steps": sizes.align_steps * min(fraction, 3)},
        "finetune": {"batch": sizes.batch // fraction, "steps": sizes.steps, "validate_every": sizes.steps},
        "engine": {
            "device": sizes.device, "processes": processes, "sharding": sharding, "micro_batch": sizes.micro_batch,
            "gradient_checkpointing": True, "workers": 4 if bench.on_gpu else 0, "log_every": 1,
            "save_every": save_every, "verify_data": False,
        },
    }  # fmt: skip
    if not bench.on_gpu:
        config["engine"]["threads"] = 1
    (folder / "train.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    out = ["--out", str(folder / "out")]
    return [sys.executable, *CLI, "train", "verifier", str(folder / "train.yaml"), *out]


def batches(folder: Path) -> dict[str, int]:
    """Return how many samples a step of each stage takes."""
    config = yaml.safe_load((folder / "train.yaml").read_text(encoding="utf-8"))
    return {stage: config[stage]["batch"] for stage in ("align", "finetune")}


def statistics(folder: Path) -> list[list[Any]]:
    """Return [stage, step, split, loss, seconds since the stage began] of a training's statistics.csv."""
    table = pd.read_csv(folder / "out" / "statistics.csv")
    table["seconds"] = table["step"] * table["stage"].map(batches(folder)) / table["samples_per_s"]
    shown = table[["stage", "step", "split", "loss", "seconds"]].astype(object)
    rows: list[list[Any]] = shown.where(shown.notna(), None).to_numpy().tolist()
    return rows


def data(bench: Bench, name: str, processes: int, until: float) -> Facts:
    """Run `train data` under torchrun.

    Labels of random weights may be all of one class, which ends it after the shards.
    """
    folder = bench.folder(name)
    config = dict(bench.sizes.data)
    labels = config["data"]["labels"]
    prompts = bench.sizes.data_images * processes // labels["variants"]
    config |= {
        "name": name, "align": None, "engine": {"device": bench.sizes.device},
        "data": {**config["data"], "clip_score": None, "labels": {**labels, "limit": prompts}},
    }  # fmt: skip
    (folder / "data.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [
        *torchrun(processes), *CLI, "train", "data", str(folder / "data.yaml"), "--out", str(folder / "out"),
    ]  # fmt: skip
    env = {**bench.cards(*range(processes)), "OMP_NUM_THREADS": str(bench.sizes.sweep["threads"])}
    train_part = folder / "out" / "data" / "hidden" / "train"
    ended = "done"
    with Command(command, folder / "log.txt", until, env) as running:
        try:
            running.wait()
        except CommandFailed as error:  # of labels all of one class, most likely
            ended = str(error)
    times = sorted(f.stat().st_mtime for f in train_part.glob("shard-*.sha256"))
    if not times:
        raise CommandFailed(ended)
    return {
        "processes": processes, "started": running.started, "ended": ended,
        "shard_size": config["data"]["shard_size"],
        "finished_s": [round(t - running.started, 3) for t in times],
    }  # fmt: skip


def reduce(bench: Bench, until: float) -> Facts:
    """Time an all-reduce of as many bytes as a training's gradients."""
    folder = bench.folder("reduce")
    out = folder / "times.json"
    command = [*torchrun(bench.gpus), __file__, str(out), str(bench.sizes.reduced_bytes), bench.sizes.device]
    with Command(command, folder / "log.txt", until, bench.all_cards) as running:
        running.wait()
    return {
        "processes": bench.gpus, "bytes": bench.sizes.reduced_bytes, "seconds_each": json.loads(out.read_text(encoding="utf-8"))
    }  # fmt: skip


def torchrun(processes: int) -> list[str]:
    return [
        sys.executable, "-m", "vhsbench.harness.common.tied", str(os.getpid()), "torch.distributed.run", "--standalone",
        f"--nproc-per-node={processes}",
    ]  # fmt: skip


def reduce_here(out: Path, size: int, device: str) -> None:
    """Run one process of `reduce`; the first writes the times."""
    import torch
    from torch import distributed

    rank = int(os.environ["RANK"])
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    if device == "cuda":
        torch.cuda.set_device(rank)
    numbers = torch.ones(size // 4, device=device)
    times = []
    for _ in range(13):
        if device == "cuda":
            torch.cuda.synchronize()
        distributed.barrier()
        started = time.perf_counter()
        distributed.all_reduce(numbers)
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
        numbers.fill_(1)
    if rank == 0:
        out.write_text(json.dumps(times[3:]), encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    reduce_here(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
