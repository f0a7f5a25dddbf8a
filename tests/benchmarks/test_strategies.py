"""The benchmark of strategies on nano, with few turns: what stages add up to is what whole runs count."""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
import pytest


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
    import strategies

    yield strategies
    sys.modules.pop("strategies")


def test_the_stages_add_up_to_what_whole_runs_compute(bench, tmp_path):
    texts = [
        "best-of-n:vhs,n=2",
        "cascade:vhs>mllm-clip,n=3,k=2",
        "stop:vhs,n=3,tau=-1e+09",
        "refine:vhs,n=2,steps=2",
    ]
    bench.main(["--out", str(tmp_path), "--turns", "3", *(x for t in texts for x in ("--only", t))])
    found = pd.read_csv(tmp_path / "strategies.csv").set_index("strategy")
    assert list(found.index) == texts
    # what runs twice for a winner of hidden states is counted in its stages too
    assert list(found["tflop"]) == pytest.approx(list(found["counted_tflop"]), rel=0.01)
    assert (found["runs"] == 3).all()
    assert (found["low"] <= found["predicted_ms"]).all()
    assert found.loc[texts[2], "predicted_ms"] < found.loc[texts[0], "predicted_ms"]
