"""Derive a synthetic sweep of a million candidates, and print time and memory.

    python benchmarks/load.py [--rows 1000000] [--shards]

Each of the 553 prompts of GenEval has pools of 32 candidates; three verifiers score each. `--shards` also
writes the sweep shard by shard and consolidates it, as a run does at its end.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd

from vhsbench.harness.geneval.prompts import official
from vhsbench.harness.stats.curves import accuracy_curves, separation
from vhsbench.harness.store.keys import CANDIDATE
from vhsbench.harness.store.tables import RunStore, load_run
from vhsbench.harness.sweep.shards import shard_size

POOL, GENERATORS, VERIFIERS = 32, 4, 3


def synthetic(rows: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return at least `rows` candidates in whole pools, and their scores, in the columns of a run's tables."""
    tags = np.array([p["tag"] for p in official()])
    seeds = max(1, -(-rows // (GENERATORS * len(tags) * POOL)))
    shape = (GENERATORS, seeds, len(tags), POOL)
    g, s, p, i = (a.ravel() for a in np.indices(shape, dtype=np.int32))
    rng = np.random.default_rng(0)
    correct = rng.random(g.size) < 0.4
    candidates = pd.DataFrame(
        {
            "generator": pd.Series([f"generator-{k}" for k in range(GENERATORS)], dtype="str").take(g).array,
            "steps": np.int32(1), "prompt_id": p, "seed": s.astype(np.int64), "index": i,
            "tag": pd.Series(tags, dtype="str").take(p).array, "correct": correct,
            "reason": pd.Series(["expected", ""], dtype="str").take(correct.astype(int)).array,
        }
    )  # fmt: skip
    keys = candidates[CANDIDATE]
    scores = []
    for v in range(VERIFIERS):
        yes = rng.beta(2, 2, len(keys)).astype(np.float32) * (0.6 + 0.4 * correct.astype(np.float32))
        mark = np.where(yes > 0.4, yes, yes - 1).astype(np.float32)
        scores.append(keys.assign(verifier=f"verifier-{v}", p_yes=yes, p_no=1 - yes, score=mark))
    return candidates, pd.concat(scores, ignore_index=True)


@contextmanager
def measured(what: str) -> Iterator[None]:
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(
        f"{what:<34} {time.perf_counter() - wall:7.1f} s wall {time.process_time() - cpu:7.1f} s CPU "
        f"{peak_gb:6.2f} GB peak so far", flush=True,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--shards", action="store_true")
    options = parser.parse_args()
    with measured("make the tables"):
        candidates, scores = synthetic(options.rows)
    print(f"{len(candidates):,} candidates, {len(scores):,} scores")
    if options.shards:
        with tempfile.TemporaryDirectory() as folder:
            candidates, scores = through_shards(candidates, scores, folder)
    with measured("accuracy for all N, intervals"):
        curves = accuracy_curves(candidates, scores)
    with measured("separation"):
        separation(candidates, scores)
    print(f"{len(curves):,} rows of curves")


def through_shards(
    candidates: pd.DataFrame, scores: pd.DataFrame, folder: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    config = {"generators": [], "rows": len(candidates)}
    with RunStore(folder, config) as store:
        groups = len(candidates[["generator", "seed"]].drop_duplicates())
        size = shard_size(groups, candidates["prompt_id"].nunique())
        with measured(f"write shards of {size} prompts"):
            for table, rows in (("candidates", candidates), ("scores", scores)):
                group = rows["prompt_id"] // size
                for n, (_, part) in enumerate(rows.groupby(["generator", "seed", group], sort=False)):
                    store.write_shard(table, f"{n:06d}", part)
        with measured("consolidate"):
            store.write_prompts([json.loads(json.dumps(p)) for p in official()])
            store.consolidate()
        store.update(status="complete", digests=store.digests)
    with measured("read the tables"):
        run = load_run(folder)
    return run.candidates, run.scores


if __name__ == "__main__":
    main()
