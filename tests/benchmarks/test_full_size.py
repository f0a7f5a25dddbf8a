"""The dry run of the full-size benchmark: the same script on nano, resumed."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parents[2] / "results"


def test_dry_run_measures_every_pipeline_and_a_second_one_nothing(benchmark_script, tmp_path, capsys):
    full_size = benchmark_script("full_size")
    arguments = ["--out", str(tmp_path / "run"), "--tiny", "--repeats", "2"]
    full_size.main(arguments)
    assert "steps=1" in capsys.readouterr().out
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
    full_size.main(arguments)
    assert "steps=1" not in capsys.readouterr().out  # nothing was measured again
    full_size.main([*arguments, "--derive"])
    benchmark_script("full_size_figures").main(RESULTS / "h200", tmp_path)
    assert {f.name for f in tmp_path.glob("*.png")} == {"time_over_n.png", "stages.png", "speedups.png"}
    assert (tmp_path / "run" / "costs.parquet").read_bytes() == costs
