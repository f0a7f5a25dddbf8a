"""Dry runs of the benchmarks of training and of judging behind generation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_every_way_to_fit_a_training_in_memory_is_timed(tmp_path):
    script = BENCHMARKS / "full_size_training.py"
    subprocess.run([sys.executable, str(script), "--out", str(tmp_path), "--tiny"], check=True)
    rows = pd.read_csv(tmp_path / "training.csv")
    assert list(rows["status"]) == ["ok"] * 4
    assert list(rows["stage"]) == ["align", "finetune"] * 2
    assert list(rows["micro_batch"]) == [2, 2, 4, 4]
    assert (rows["samples_per_s"] > 0).all()
    assert rows["peak_vram_gb"].isna().all()  # unknown on a CPU, not zero
    gemma = pd.read_csv(tmp_path / "gemma.csv")
    assert list(gemma["task"]) == ["caption", "tag"]
    assert (gemma["per_input_s"] > 0).all()
    assert json.loads((tmp_path / "environment.json").read_text())["packages"]["torch"]


def test_overlap_is_measured_both_ways_on_the_same_shards(tmp_path):
    script, table = BENCHMARKS / "overlap.py", tmp_path / "overlap.csv"
    subprocess.run([sys.executable, str(script), "--out", str(table), "--tiny", "--rounds", "2"], check=True)
    rows = pd.read_csv(table)
    assert [(r.round, r.overlap) for r in rows.itertuples()] == [(1, False), (1, True), (2, True), (2, False)]
    assert set(rows["candidates"]) == {32}
    assert (rows["wall_s"] > 0).all()
