"""What multi_gpu.py measures: each part runs commands and returns what it saw, in plain values."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import full_size_training
import pandas as pd
import psutil
import yaml
from processes import Command, CommandFailed

from harness.config import TimingConfig
from harness.cost.measure import Cell, measure_in_fresh_process

CLI = ("-m", "harness.cli")
FRACTION = 16  # the share of the recipe's batches that one of so many GPUs has
Facts = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """How large all is. `rounds` are a sweep's shards a GPU; batches are over all processes."""

    device: str
    training: full_size_training.Sizes
    sweep: Mapping[str, Any]
    data: Mapping[str, Any]
    cell: tuple[str, Mapping[str, Any], str, Mapping[str, Any]]
    rounds: int
    prompts: int  # of a sweep, for each of its seeds
    align_batch: int
    align_steps: int
    batch: int
    steps: int
    micro_batch: int
    save_every: int
    data_images: int  # a process
    reduced_bytes: int


_RANDOM = {"dtype": "bfloat16"}
_BOTH = {"device": "cuda", **_RANDOM}
FULL = Sizes(
    device="cuda",
    training=replace(full_size_training.FULL, samples=512),
    sweep={
        "generators": [{"name": "sana-sprint", "options": {"weights": "random", **_RANDOM}}],
        "verifiers": [{"name": v, "checkpoint": "random", "options": _RANDOM}
                      for v in ("vhs", "mllm-clip", "mllm-ae")],
        "prompts": {"source": "geneval"},
        "detector": {"name": "mask2former", "options": {"checkpoint": "random", "colors": "random"}},
        "pool": 4, "batch_size": 4, "threads": 8,
    },
    data={
        "generator": {"name": "sana-sprint", "options": {"weights": "random", **_RANDOM}},
        "verifier": {"kind": "vhs", "block": 7},
        "data": {
            "detector": {"name": "mask2former", "options": {"checkpoint": "random", "colors": "random"}},
            "labels": {"prompts": "geneval", "draws": 100, "variants": 4, "validation_share": 0.1},
            "batch_size": 16, "shard_size": 16,
        },
    },
    cell=(
        "sana-sprint", {"weights": "random", **_BOTH},
        "vhs", {"checkpoint": "random", "generator": "sana-sprint", **_BOTH},
    ),
    rounds=12, prompts=32, align_batch=512, align_steps=5, batch=64, steps=25, micro_batch=64, save_every=8,
    data_images=192, reduced_bytes=2 * 10**9,
)  # fmt: skip
TINY = Sizes(
    device="cpu",
    training=full_size_training.TINY,
    sweep={
        "generators": [{"name": "nano"}], "verifiers": [{"name": "vhs"}],
        "prompts": {"source": "nano", "split": "validation"}, "pool": 2, "batch_size": 8, "threads": 1,
    },
    data={
        "generator": {"name": "nano"},
        "verifier": {"kind": "vhs", "block": 5, "llm": {"name": "nano"}},
        "data": {
            "detector": {"name": "shapes"}, "labels": {"prompts": "nano", "variants": 1, "validation_share": 0.5},
            "batch_size": 4, "shard_size": 4,
        },
    },
    cell=("nano", {"device": "cpu"}, "vhs", {"generator": "nano", "device": "cpu"}),
    rounds=4, prompts=8, align_batch=32, align_steps=3, batch=16, steps=6, micro_batch=4, save_every=4,
    data_images=16, reduced_bytes=10**6,
)  # fmt: skip


@dataclass(frozen=True)
class Bench:
    """Where parts work, on how many GPUs, and how large."""

    work: Path
    gpus: int
    sizes: Sizes

    @property
    def on_gpu(self) -> bool:
        return self.sizes.device == "cuda"

    def cards(self, *indices: int) -> dict[str, str]:
        """The environment of a command that sees those GPUs; logical ones of Ray on a CPU."""
        if self.on_gpu:
            return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, indices))}
        return {"RAY_OVERRIDE_RESOURCES": json.dumps({"GPU": len(indices), "CPU": 2 * len(indices)})}

    @property
    def all_cards(self) -> dict[str, str]:
        return self.cards(*range(self.gpus))

    def folder(self, name: str) -> Path:
        """A new, empty one."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        return folder


@dataclass(frozen=True)
class Part:
    """`run` ends by the time that it is given (time.monotonic) and returns facts."""

    name: str
    run: Callable[[float], Facts]
    expected_s: float  # it is not begun with less time left
    limit_s: float


def parts(bench: Bench) -> list[Part]:
    """All, in the order of what is missed most if time runs out."""
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


def sweep(
    bench: Bench, name: str, gpus: int, workers: int, share: float, until: float,
    *, rounds: int | None = None, kill: bool = False,
) -> Facts:  # fmt: skip
    """A sweep by Ray, of so many shards a GPU; `kill` ends a worker once two shards are there."""
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
    """The command of a sweep of so many shards of eight prompts."""
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
    """Whether it is a worker of Ray's."""
    return process.name().startswith("ray::_Actor")


def finished(folder: Path) -> list[float]:
    """When each shard of a sweep was there (seconds since the epoch), in order."""
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
    """All rows of a sweep's table, in one order."""
    rows = pd.concat([pd.read_parquet(file) for file in shard_files(folder, table)])
    order = [key for key in ("generator", "verifier", "seed", "prompt_id", "index") if key in rows]
    return rows.sort_values(order, ignore_index=True)


def same(work: Path, folder: Path) -> Facts:
    """Whether tables equal those of every other sweep, in the seeds that both have; and by how much they differ."""
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
    """A cell's costs on the first GPU while the last one sweeps by the local engine, and again when it is idle."""
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
    measured = measure_in_fresh_process(
        Cell(generator, dict(generator_options), verifier, dict(verifier_options), prompt, timing)
    )
    kept = ("stage", "n", "batch", "repeat", "wall_ms", "event_ms", "energy_j", "status", "note")
    return [{key: row[key] for key in kept} for row in measured.rows]


def train(
    bench: Bench, name: str, processes: int, until: float, *, sharding: str = "none", fraction: int = 1
) -> Facts:
    """Both stages in so many processes; `fraction` divides their batches."""
    folder = bench.folder(name)
    command = training(bench, folder, processes, sharding, fraction, 1000)
    with Command(command, folder / "log.txt", until, bench.cards(*range(processes))) as running:
        running.wait()
    return {
        "processes": processes, "sharding": sharding, "batches": batches(folder), "started": running.started,
        "rows": statistics(folder), "micro_batch": min(bench.sizes.micro_batch, bench.sizes.batch // fraction),
    }  # fmt: skip


def train_killed(bench: Bench, until: float) -> Facts:
    """As train-ddp, but the second process is killed in fine-tuning after a state, and the command given again."""
    folder = bench.folder("train-killed")
    sizes, out = bench.sizes, folder / "out"

    def second(process: Any) -> bool:
        return process.environ().get("RANK") == "1" and "verifier" in process.cmdline()

    command = training(bench, folder, bench.gpus, "none", 1, sizes.save_every)
    with Command(command, folder / "log.txt", until, bench.all_cards) as first:
        first.wait(lambda: any(f.suffix != ".tmp" for f in out.glob("state/finetune-0*")))
        killed = first.kill_one(second)
        status = first.wait(check=False)
        ended = time.time()
    state = max(f.name for f in out.glob("state/finetune-0*"))
    command += ["--set", "engine.save_every=1000"]
    with Command(command, folder / "log.txt", until, bench.all_cards) as again:
        again.wait()
    return {
        "processes": bench.gpus, "sharding": "none", "batches": batches(folder), "started": again.started,
        "rows": statistics(folder),
        "killed": killed, "exit_status": status, "ended_after_s": round(ended - killed, 1), "state": state,
        "micro_batch": sizes.micro_batch,
    }  # fmt: skip


def training(
    bench: Bench, folder: Path, processes: int, sharding: str, fraction: int, save_every: int
) -> list[str]:
    """The command of a training of VHS on random features of the true shape, made once."""
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
    """Samples a step of each stage."""
    config = yaml.safe_load((folder / "train.yaml").read_text(encoding="utf-8"))
    return {stage: config[stage]["batch"] for stage in ("align", "finetune")}


def statistics(folder: Path) -> list[list[Any]]:
    """[stage, step, split, loss, seconds since the stage began] of a training's statistics.csv."""
    table = pd.read_csv(folder / "out" / "statistics.csv")
    table["seconds"] = table["step"] * table["stage"].map(batches(folder)) / table["samples_per_s"]
    shown = table[["stage", "step", "split", "loss", "seconds"]].astype(object)
    rows: list[list[Any]] = shown.where(shown.notna(), None).to_numpy().tolist()
    return rows


def data(bench: Bench, name: str, processes: int, until: float) -> Facts:
    """`train data` under torchrun. Labels of random weights may be all of one class, which ends it after the shards."""
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
    """An all-reduce of as many bytes as a training's gradients."""
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
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
    ]  # fmt: skip


def reduce_here(out: Path, size: int, device: str) -> None:
    """One process of `reduce`; the first writes the times."""
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
