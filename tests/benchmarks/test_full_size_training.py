"""Dry runs of the benchmark of training."""

from __future__ import annotations

import json

import pandas as pd


def test_every_way_to_fit_a_training_in_memory_is_timed(benchmark_script, tmp_path):
    benchmark_script("full_size_training").main(["--out", str(tmp_path), "--tiny"])
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
