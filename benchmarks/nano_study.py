"""Study nano's trainings: profile, AUC, best-of-N, equal time, and the arms that show which ingredient does what.

    python benchmarks/nano_study.py evaluate runs/nano-0 runs/nano-1 runs/nano-2 --out results/nano
    python benchmarks/nano_study.py arms runs/nano-0 runs/nano-arms --device cuda --processes 4
    python benchmarks/nano_study.py pack runs/nano-0 nano-0.tar
    python benchmarks/nano_study.py bundle runs/nano-0
    python benchmarks/nano_study.py unbundle runs/nano-0

All but `unbundle` can be repeated: what is there already is not made again.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import typer

from vhsbench import generators, verifiers
from vhsbench.harness.common.processes import end_with_parent
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval.detector import judge
from vhsbench.harness.geneval.nano_prompts import nano_prompts
from vhsbench.harness.geneval.shapes import ShapeDetector
from vhsbench.harness.inference.candidates import Rows, encoded, generate
from vhsbench.harness.stats.expected import expected_accuracy, largest_difference, oracle
from vhsbench.harness.stats.intervals import clustered_mean, paired_difference
from vhsbench.harness.training.nano import keep_recipe, train
from vhsbench.harness.training.nano_profile import PROFILE
from vhsbench.harness.training.nano_recipe import VERIFIERS, NanoRecipe, identity
from vhsbench.verifiers.metrics import auc, auc_within
from vhsbench.verifiers.training.train import TOWER

app = typer.Typer(no_args_is_help=True)

PACKAGES = Path(__file__).parents[1]
ROOT = 0  # of the noise, a run's own default seed
BATCH = 128
EQUAL_TIME = {"vhs": (4, 9, 15), "mllm-clip": (2, 4, 6), "mllm-ae": (3, 7, 11), "vhs-early": (4, 9, 15)}
NUMBERS = (1, 2, 4, 8, 16)
PAIRS = (("vhs", "mllm-clip"), ("vhs", "mllm-ae"), ("mllm-clip", "mllm-ae"))
# what each arm changes of the base's recipe, and the verifiers that it trains
_THREE = ("vhs", "mllm-clip", "mllm-ae")
ARMS: Mapping[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "new-llm": ({"pretrained": False, "align": "all"}, _THREE),
    "aligned-whole": ({"align": "all"}, _THREE),
    "compression-12": ({"channels": 16}, _THREE),
    "compression-96": ({"channels": 2}, _THREE),
    "block-1": ({"early_block": 1}, ("vhs-early",)),
    "block-2": ({"early_block": 2}, ("vhs-early",)),
    "block-4": ({"early_block": 4}, ("vhs-early",)),
    "block-5": ({"early_block": 5}, ("vhs-early",)),
    "block-7": ({"early_block": 7}, ("vhs-early",)),
    "data-16k": ({"candidates": 16_000}, _THREE),
    "data-32k": ({"candidates": 32_000}, _THREE),
    "data-192k": ({"candidates": 192_000}, _THREE),
    "rate-low": ({"finetune_rate": 1e-4}, _THREE),
    "rate-high": ({"finetune_rate": 1e-3}, _THREE),
    "glance-5": ({"glance": 5}, _THREE),
}  # fmt: skip


@app.command()
def evaluate(
    trainings: list[Path],
    out: Path = Path("results/nano"),
    device: str = "cpu",
    processes: int = 1,
    pool: int = 64,
    per_task: int = 64,
) -> None:
    """Score the evaluation prompts' candidates of each training, and write the tables of all of them."""
    found = {t.name: scored(t, device, processes, pool, per_task) for t in trainings}
    write_tables(found, out, together=len(found) > 1)


@app.command()
def arms(
    base: Path,
    out: Path,
    arm: list[str] | None = None,
    device: str = "cpu",
    processes: int = 2,
    threads: int = 1,
    pool: int = 64,
    per_task: int = 64,
    results: Path = Path("results/nano/arms"),
) -> None:
    """Train the arms (all, or those named), each in its folder beside the others, and write their tables."""
    recipe = NanoRecipe(**json.loads((base / "recipe.json").read_text(encoding="utf-8")))
    found = {"base": scored(base, device, processes, pool, per_task)}
    for name in arm or ARMS:
        changed, kinds = ARMS[name]
        train(
            out / name, replace(recipe, **changed), threads=threads, device=device, say=print,
            processes=processes, base=base, kinds=kinds,
        )  # fmt: skip
        found[name] = scored(out / name, device, processes, pool, per_task)
        write_tables(found, results)


@app.command()
def pack(training: Path, file: Path) -> None:
    """Put what a training leaves behind, without its data, into one tar file."""
    with tarfile.TarFile(file, "w") as tar:
        for path in sorted(_kept(training)):
            tar.add(path, Path(training.name) / path.relative_to(training), recursive=False)
    print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")


@app.command()
def bundle(training: Path, into: Path = PACKAGES) -> None:
    """Copy a training's weights into the packages; MLLM with CLIP shares the bundled CLIP there."""
    places = bundled_folders(into)
    for name, folder in places.items():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(training / "weights" / name, folder, ignore=shutil.ignore_patterns("*.pt", TOWER))
    card = places["mllm-clip"] / "verifier.json"
    told = json.loads(card.read_text(encoding="utf-8"))
    told.pop("vision_tower")
    card.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


@app.command()
def unbundle(training: Path) -> None:
    """Lay the bundled weights out as a training of seed 0, which lacks its autoencoder and data."""
    if training.exists() and (training.is_file() or any(training.iterdir())):
        raise typer.BadParameter(f"{training} is not an empty folder; choose another.")
    work = training.with_name(f".{training.name}.tmp")  # the training is whole, or not there
    shutil.rmtree(work, ignore_errors=True)
    weights, recipe, places = work / "weights", NanoRecipe(), bundled_folders(PACKAGES)
    for name, folder in places.items():
        shutil.copytree(folder, weights / name)
    reader = weights / "mllm-clip"  # as a training leaves it: with its own CLIP
    shutil.copytree(places["clip"], reader / TOWER)
    card = reader / "verifier.json"
    told = json.loads(card.read_text(encoding="utf-8")) | {"vision_tower": TOWER}
    card.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    keep_recipe(work, recipe)
    for stage in places:
        record = json.dumps({"identity": identity(stage, recipe)}, indent=1) + "\n"
        (work / f"{stage}.json").write_text(record, encoding="utf-8")
    os.replace(work, training)  # also over an empty folder


def bundled_folders(packages: Path) -> dict[str, Path]:
    """Return where the packages keep what each stage writes below weights/."""
    readers = packages / "verifiers/nano/weights"
    return {"generator": packages / "generators/nano/weights"} | {
        name: readers / name for name in ("llm", "clip", *VERIFIERS)
    }


def _kept(training: Path) -> Iterator[Path]:
    yield from (f for f in (training / "weights").rglob("*") if f.is_file())
    yield from (f for f in training.iterdir() if f.is_file() and f.suffix in (".json", ".jsonl", ".log"))
    yield from training.glob("*/statistics.csv")
    yield from training.glob("evaluation/*.parquet")


# candidates and scores


def scored(training: Path, device: str, processes: int, pool: int, per_task: int) -> pd.DataFrame:
    """Return a row for each candidate of the evaluation prompts: verdict, and a column for each verifier."""
    shares = [(training, device, pool, per_task, i, max(1, processes)) for i in range(max(1, processes))]
    if processes <= 1:
        frames = [_share(*s) for s in shares]
    else:
        with ProcessPoolExecutor(processes, get_context("spawn"), end_with_parent) as workers:
            frames = list(workers.map(_share, *zip(*shares, strict=True)))
    return pd.concat(frames).sort_values(["prompt_id", "index"], ignore_index=True)


def _share(training: Path, device: str, pool: int, per_task: int, share: int, of: int) -> pd.DataFrame:
    file = training / "evaluation" / f"{pool}x{per_task}-{share}of{of}.parquet"
    if file.exists():
        return pd.read_parquet(file)
    torch.set_num_threads(1)
    prompts = [p for tag in TAGS for p in _of_task(tag, per_task)]
    weights = training / "weights"
    generator = generators.create("nano", weights=weights / "generator", device=device)
    named = {n: weights / n for n in VERIFIERS if (weights / n).exists()}
    readers = {
        n: verifiers.create(n.removesuffix("-early"), checkpoint=f, device=device) for n, f in named.items()
    }
    blocks = list(dict.fromkeys(v.block for v in readers.values() if v.block is not None))
    keys = [(p, ROOT, i) for p in range(share, len(prompts), of) for i in range(pool)]
    detector, rows = ShapeDetector(), []
    for start in range(0, len(keys), BATCH):
        part = keys[start : start + BATCH]
        texts = [prompts[p]["prompt"] for p, _, _ in part]
        with torch.inference_mode():
            made = generate(generator, encoded(generator.encode, texts), Rows("nano", texts, part), blocks)
            marks = {n: made.scored_by(v)["score"] for n, v in readers.items()}
        verdicts = judge(detector, made.images, [prompts[p] for p, _, _ in part])
        rows += [
            {"prompt_id": p, "tag": prompts[p]["tag"], "index": i, "correct": verdict.correct,
             **{n: float(m[k]) for n, m in marks.items()}}
            for k, ((p, _, i), verdict) in enumerate(zip(part, verdicts, strict=True))
        ]  # fmt: skip
    frame = pd.DataFrame(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(file)
    return frame


def _of_task(tag: str, most: int) -> list[dict[str, Any]]:
    return [p for p in nano_prompts()["evaluation"] if p["tag"] == tag][:most]


# tables


def write_tables(found: Mapping[str, pd.DataFrame], out: Path, together: bool = False) -> None:
    """Write profile.csv, auc.csv, best_of_n.csv and equal_time.csv of trainings by name, and `together` as one."""
    out.mkdir(parents=True, exist_ok=True)
    tables = {
        "profile": [r for name, f in found.items() for r in profile(name, f)],
        "auc": [r for name, f in found.items() for r in aucs(name, f)],
        "best_of_n": [r for name, f in found.items() for r in best_of_n(name, f)],
        "equal_time": [r for name, f in found.items() for r in equal_time(name, [f])],
    }
    if together:
        tables["equal_time"] += equal_time("all", list(found.values()))
    for name, rows in tables.items():
        pd.DataFrame(rows).round(4).to_csv(out / f"{name}.csv", index=False)
        print(f"{out / name}.csv: {len(rows)} rows")


def profile(name: str, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the share of right candidates by task beside the published one, and the oracle's best of 16."""
    by_task = 100 * frame.groupby("tag")["correct"].mean()
    rows = [{"training": name, "task": t, "percent": by_task[t], "published": PROFILE[t]} for t in TAGS]
    right, prompts, _ = _grids(frame)
    rows.append({"training": name, "task": "overall", "percent": 100 * right.mean(), "published": 71.6})
    n = min(16, right.shape[1])
    rows.append({"training": name, "task": f"oracle_{n}", "percent": 100 * oracle(right)[:, n - 1].mean()})
    never = (right.sum(1) == 0).sum()
    rows.append({"training": name, "task": "prompts_never_right", "percent": 100 * never / len(prompts)})
    return rows


def aucs(name: str, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each verifier's AUC, pooled and within prompts, over all and by task."""
    share = frame.groupby("prompt_id")["correct"].transform("mean")
    rows = []
    for verifier in (*_verifiers(frame), "prompt_alone"):
        scores = share if verifier == "prompt_alone" else frame[verifier]
        for tag in ("all", *TAGS):
            part = frame if tag == "all" else frame[frame["tag"] == tag]
            s = scores[part.index]
            rows.append({
                "training": name, "verifier": verifier, "task": tag, "pooled": auc(s, part["correct"]),
                "within_prompts": auc_within(s, part["correct"], part["prompt_id"]),
            })  # fmt: skip
    return rows


def best_of_n(name: str, frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return each verifier's exact best-of-N in percent, with its interval by prompt."""
    right, _, tags = _grids(frame)
    values = {v: expected_accuracy(_grid(frame, v), right) for v in _verifiers(frame)}
    values["oracle"] = oracle(right)
    rows = []
    for verifier, value in values.items():
        for n in (n for n in NUMBERS if n <= right.shape[1]):
            found = clustered_mean(value[:, n - 1], tasks=tags)
            rows.append({"training": name, "verifier": verifier, "n": n, **_percent(found)})
    return rows


def equal_time(name: str, frames: Sequence[pd.DataFrame]) -> list[dict[str, Any]]:
    """Return accuracies at the paper's equal times, and paired differences of verifiers.

    Several trainings are averaged prompt by prompt: the same prompts, with other generators and verifiers.
    """
    rows = []
    for k in range(3):
        for a, b in PAIRS:
            if not all(a in f and b in f for f in frames):
                continue
            n_a, n_b = EQUAL_TIME[a][k], EQUAL_TIME[b][k]
            ours, theirs, prompts, tags, most = [], [], [], [], 0.0
            for frame in frames:
                right, ids, task = _grids(frame)
                if max(n_a, n_b) > right.shape[1]:
                    continue
                s_a, s_b = _grid(frame, a), _grid(frame, b)
                ours.append(expected_accuracy(s_a, right)[:, n_a - 1])
                theirs.append(expected_accuracy(s_b, right)[:, n_b - 1])
                most = max(most, largest_difference(s_a, s_b, n_a, n_b))
                prompts.append(ids)
                tags.append(task)
            if not ours:
                continue
            one, other = np.concatenate(ours), np.concatenate(theirs)
            found = paired_difference(
                one, other, most, prompts=np.concatenate(prompts), tasks=np.concatenate(tags)
            )
            rows.append({
                "training": name, "budget": k + 1, "a": a, "n_a": n_a, "b": b, "n_b": n_b,
                "a_percent": 100 * one.mean(), "b_percent": 100 * other.mean(), **_percent(found, "difference"),
            })  # fmt: skip
    return rows


def _percent(found: Any, name: str = "percent") -> dict[str, float]:
    return {
        name: 100 * float(found.mean[0]),
        "low": 100 * float(found.low[0]),
        "high": 100 * float(found.high[0]),
    }


def _verifiers(frame: pd.DataFrame) -> list[str]:
    return [v for v in VERIFIERS if v in frame]


def _grid(frame: pd.DataFrame, column: str) -> Any:
    return frame[column].to_numpy(float).reshape(frame["prompt_id"].nunique(), -1)


def _grids(frame: pd.DataFrame) -> tuple[Any, Any, Any]:
    """Return verdicts [P, M], and each prompt's id and task."""
    first = frame.groupby("prompt_id", sort=True).first()
    return _grid(frame, "correct"), first.index.to_numpy(), first["tag"].to_numpy()


if __name__ == "__main__":
    app()
