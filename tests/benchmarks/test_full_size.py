"""The dry run of the full-size benchmark: the same script on nano, resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "full_size.py"


def test_dry_run_measures_every_pipeline_and_a_second_one_nothing(tmp_path):
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "run"), "--tiny", "--repeats", "2"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert "failures" not in info
    summary = pd.read_csv(tmp_path / "run" / "summary.csv")
    assert list(zip(summary["verifier"], summary["statistic"], strict=True)) == [
        (verifier, statistic) for verifier in ("none", "vhs") for statistic in ("median", "min")
    ]
    assert (summary["per_candidate_ms"] > 0).all()
    assert summary["peak_vram_gb"].isna().all()
    ratios = pd.read_csv(tmp_path / "run" / "naive.csv")
    assert (ratios["naive_to_staged_median"] > 0).all()
    assert list(ratios["verifier"]) == ["vhs"]
    costs = (tmp_path / "run" / "costs.parquet").read_bytes()
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "steps=1" not in again.stdout  # nothing was measured again
    subprocess.run([*command, "--derive"], check=True, capture_output=True, text=True)
    drawn = SCRIPT.with_name("full_size_figures.py")
    subprocess.run(
        [sys.executable, str(drawn), str(SCRIPT.parents[1] / "results" / "h200"), str(tmp_path)], check=True
    )
    assert {f.name for f in tmp_path.glob("*.png")} == {"time_over_n.png", "stages.png", "speedups.png"}
    assert (tmp_path / "run" / "costs.parquet").read_bytes() == costs
