"""Judging behind generation against judging after it: the same shards, both ways in turn, in one process.

    python benchmarks/overlap.py --out results/overlap.csv [--rounds 3] [--tiny]

SANA-Sprint, VHS, MLLM w/ CLIP and GenEval's detector at full size with random weights on one GPU; `--tiny` is
nano on the CPU. What is timed is a worker's whole shard (vhsbench.harness.sweep.shards.Worker.work), its first one left out.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from vhsbench.harness.common.atomic import write_atomic
from vhsbench.harness.common.shown import csv_bytes
from vhsbench.harness.config.run import RunConfig, parse
from vhsbench.harness.sweep.run import load_prompts
from vhsbench.harness.sweep.shards import SMALLEST_SHARD, Shard, Worker

FULL = """
generators: [{name: sana-sprint, options: {weights: random, dtype: bfloat16}}]
verifiers:
  - {name: vhs, checkpoint: random, options: {dtype: bfloat16}}
  - {name: mllm-clip, checkpoint: random, options: {dtype: bfloat16}}
prompts: {source: geneval}
detector: {name: mask2former, options: {checkpoint: random, colors: random}}
device: cuda
gallery_prompts: 0
pool: 8
batch_size: 8
"""
TINY = (
    "{generators: [{name: nano}], verifiers: [{name: vhs}], prompts: {source: nano}, pool: 2, batch_size: 8}"
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="nano on the CPU: a dry run")
    options = parser.parse_args(arguments)
    config = parse(TINY if options.tiny else FULL, "benchmark")
    rows = []
    prompts = load_prompts(config)
    both = {overlap: worker(config, prompts, overlap) for overlap in (False, True)}
    for i in range(options.rounds + 1):
        shard = Shard(f"shard-{i}", 0, 0, i * SMALLEST_SHARD, (i + 1) * SMALLEST_SHARD)
        for overlap in (False, True) if i % 2 else (True, False):
            started = time.perf_counter()
            finished = both[overlap].work(shard)
            took = time.perf_counter() - started
            if i:
                rows.append(
                    {
                        "round": i,
                        "overlap": overlap,
                        "candidates": len(finished.tables["candidates"]),
                        "wall_s": took,
                    }
                )
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows)
    write_atomic(options.out, csv_bytes(table))
    by = table.pivot(index="round", columns="overlap", values="wall_s")
    print((by[False] / by[True]).describe().to_string())


def worker(config: RunConfig, prompts: list[dict[str, object]], overlap: bool) -> Worker:
    return Worker(config.model_copy(update={"overlap": overlap}), prompts, 0)


if __name__ == "__main__":
    main()
