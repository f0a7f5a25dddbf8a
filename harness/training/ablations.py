"""Compare a training and its ablations on one pool of held-out candidates."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from vhsbench import verifiers
from vhsbench.generators.training import Progress
from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.shown import csv_bytes
from vhsbench.harness.config.local_paths import Base
from vhsbench.harness.config.run import PoolConfig, load_pool_config
from vhsbench.harness.regress.pool import Pool, load_pool, make_pool
from vhsbench.harness.regress.scores import pool_candidates, score_pool
from vhsbench.harness.report import tables
from vhsbench.harness.stats.expected import expected_accuracy, largest_difference
from vhsbench.harness.stats.intervals import average_by_prompt, paired_difference
from vhsbench.harness.training.config import BASE, TrainConfig, data_beside
from vhsbench.harness.training.verifier import Report, train
from vhsbench.verifiers.metrics import auc
from vhsbench.verifiers.training.train import CHECKPOINT

RUN = "ablations.yaml"  # as `vhsbench pool` reads it: the held-out candidates, and all checkpoints by path
_VALIDATION = ("validation_loss", "validation_auc", "validation_accuracy", "validation_ece")
Bars = Callable[[str, int, int], None]


def train_all(config: TrainConfig, out: Path, report: Report, bars: Bars = lambda *_: None) -> pd.DataFrame:
    """Train `config` in `out` and its ablations in out/ablations/<name>, then compare them.

    Writes ablations.yaml, comparison.csv and comparison.md to `out`. Finished trainings are not repeated.
    """
    folders = {BASE: train(config, out, _named(BASE, report))}
    for name in config.ablations:
        variant = data_beside(config, config.ablation(name), out)
        folders[name] = train(variant, out / "ablations" / name, _named(name, report))
    run = _run_config(config, folders, out)
    if not (out / RUN).exists() or (out / RUN).read_text(encoding="utf-8") != run:
        shutil.rmtree(out / "pool", ignore_errors=True)  # of other blocks, prompts or sizes
    write_output(out / RUN, run)
    table = compare(config, folders, _pool(load_pool_config(out / RUN), out / "pool", bars), bars)
    write_output(out / "comparison.csv", csv_bytes(table))
    write_output(out / "comparison.md", markdown(table))
    return table


def _named(name: str, report: Report) -> Report:
    def shown(progress: Progress) -> None:
        report(replace(progress, name=f"{name}: {progress.name}"))

    return shown


def _run_config(config: TrainConfig, folders: Mapping[str, Path], out: Path) -> str:
    """Return the pool's configuration, for a file in `out`: checkpoints relative to it, other paths absolute."""
    kinds = {BASE: config} | {name: config.ablation(name) for name in config.ablations}
    plain = {
        "name": f"{config.name}-ablations",
        "generators": [json.loads(config.generator.model_dump_json())],
        "device": config.engine.device,
        **json.loads(config.compare.model_dump_json()),
    }
    plain = Base(Path.cwd(), lenient=True).anchored(plain, PoolConfig)
    plain["verifiers"] = [
        {"name": kinds[name].verifier.kind, "checkpoint": os.path.relpath(folder, out)}
        for name, folder in folders.items()
    ]
    return yaml.safe_dump(plain, sort_keys=False)


def _pool(run: PoolConfig, folder: Path, bars: Bars) -> Pool:
    return load_pool(folder) if folder.exists() else make_pool(run, folder, progress=bars)


def compare(config: TrainConfig, folders: Mapping[str, Path], pool: Pool, bars: Bars) -> pd.DataFrame:
    """Make a row per training: its own validation, AUC and exact best-of-N in percent on the pool.

    `difference_points` is best-of-N at the largest N less the base's, with its 95% interval (paired by prompt).
    """
    candidates = pool_candidates(pool)
    tags = candidates.tags[np.unique(candidates.prompt_id, return_index=True)[1]]
    size = candidates.correct.shape[1]
    ns = sorted({n for n in (1, 2, 4, 8, 16, 32) if n <= size} | {size})
    rows, base, base_scores = [], None, None
    for name, folder in folders.items():
        kind = (config.ablation(name) if name != BASE else config).verifier.kind
        verifier = verifiers.create(
            kind, checkpoint=folder, generator=config.generator.name, device=config.engine.device
        )
        scored = score_pool(verifier, name, pool, partial(bars, f"scores of {name}"))
        accuracy = average_by_prompt(
            100 * expected_accuracy(scored.score, candidates.correct), candidates.prompt_id
        )
        if base is None or base_scores is None:
            base, base_scores = accuracy, scored.score
        apart = largest_difference(scored.score, base_scores, size, size)
        ahead = paired_difference(
            accuracy[:, size - 1 :], base[:, size - 1 :], tasks=tags, largest=100 * apart
        )
        trained = json.loads((folder.parent / f"{CHECKPOINT}.json").read_text(encoding="utf-8"))
        row: dict[str, Any] = {"training": name, "changes": _changes(config.ablations.get(name, {}))}
        row |= {key: trained.get(key) for key in _VALIDATION}
        row |= {"held_out_auc": auc(scored.score.ravel(), candidates.correct.ravel())}
        row |= {f"best_of_{n}_percent": accuracy[:, n - 1].mean() for n in ns}
        row |= {"difference_points": ahead.mean[0], "low": ahead.low[0], "high": ahead.high[0]}
        rows.append(row | {"seconds": trained["seconds"], "checkpoint_sha256": verifier.checkpoint_sha256})
    return pd.DataFrame(rows)


def _changes(overrides: Mapping[str, Any], prefix: str = "") -> str:
    """Write {"a": {"b": 1}} as "a.b=1"."""
    parts = []
    for key, value in overrides.items():
        if isinstance(value, Mapping) and value:
            parts.append(_changes(value, f"{prefix}{key}."))
        else:
            parts.append(f"{prefix}{key}={json.dumps(value)}")
    return " ".join(parts)


def markdown(table: pd.DataFrame) -> str:
    """Write the table for people: no hashes, few digits."""
    return tables.markdown(table.drop(columns=["checkpoint_sha256"]))
