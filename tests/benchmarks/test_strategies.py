"""The benchmark of strategies on nano, with few turns: what stages add up to is what whole runs count."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
    import strategies

    yield strategies
    sys.modules.pop("strategies")


def test_the_stages_add_up_to_what_whole_runs_compute(bench, tmp_path, capsys):
    texts = [
        "best-of-n:vhs,n=2",
        "cascade:vhs>mllm-clip,n=3,k=2",
        "stop:vhs,n=3,tau=-1e+09",
        "refine:vhs,n=2,steps=2",
        "cascade:vhs-early>vhs,n=3,k=2",
    ]
    asked = ["--out", str(tmp_path), *(x for t in texts for x in ("--only", t))]
    bench.main([*asked, "--turns", "3", "--seconds", "0"])
    assert "fewer than 3 turns" in capsys.readouterr().out
    bench.main([*asked, "--turns", "2"])
    before = pd.read_parquet(tmp_path / "rows.parquet")
    bench.main([*asked, "--turns", "3"])
    times = pd.read_parquet(tmp_path / "rows.parquet")
    assert sorted(times["visit"].unique()) == [0, 1, 2]
    pd.testing.assert_frame_equal(times[times["visit"] < 2], before)  # those are not made again
    assert "of 5 strategies take what their stages add up to" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "strategies.csv").set_index("strategy")
    assert list(found.index) == texts
    # what runs twice for a winner of hidden states is counted in its stages too
    assert list(found["tflop"]) == pytest.approx(list(found["counted_tflop"]), rel=0.01)
    assert (found["runs"] == 3).all()
    assert (found["low"] <= found["predicted_ms"]).all()
    assert found.loc[texts[2], "predicted_ms"] < found.loc[texts[0], "predicted_ms"]
    assert (found["peak_rss_gb"] > 0).all()


def test_full_size_is_sana_sprint_with_random_weights_on_the_gpu(bench, monkeypatch):
    asked = []

    def create(name, **options):
        asked.append((name, options))
        return name

    monkeypatch.setattr(bench.generators, "create", create)
    monkeypatch.setattr(bench.verifiers, "create", create)
    generator, judges = bench.load(full_size=True)
    gpu = {"device": "cuda", "dtype": "bfloat16"}
    known = {"checkpoint": "random", "generator": "sana-sprint", **gpu}
    assert (generator, set(judges)) == ("sana-sprint", set(bench.NEEDS))
    assert asked[0] == ("sana-sprint", {"weights": "random", **gpu})
    assert asked[1:] == [
        ("vhs", known), ("mllm-clip", known), ("mllm-ae", known), ("vhs", {**known, "block": 3})
    ]  # fmt: skip


def test_weights_that_two_parts_share_are_counted_once(bench):
    one = torch.nn.Linear(1000, 250, bias=False)
    judge = SimpleNamespace(modules=lambda: {"llm": one, "head": torch.nn.Sequential(one)})
    assert bench.gigabytes(judge) == pytest.approx(1e-3)


def test_a_peak_is_also_given_without_verifiers_that_a_strategy_has_no_use_for(bench, monkeypatch):
    loaded = bench.Bench.__new__(bench.Bench)
    judges = {
        "vhs": torch.nn.Linear(1000, 250, bias=False),
        "mllm-ae": torch.nn.Linear(1000, 500, bias=False),
    }
    loaded.judges = {
        name: SimpleNamespace(modules=lambda part=part: {"llm": part}) for name, part in judges.items()
    }
    loaded.whole = {"best-of-n:vhs,n=1": SimpleNamespace(verifiers=("vhs",))}
    loaded.work, loaded.runs = {}, {("best-of-n:vhs,n=1", "end_to_end", 1): lambda: None}
    loaded.on = loaded.gpu = None
    monkeypatch.setattr(bench, "peak_memory", lambda *_: {"peak_vram_gb": 1.0})
    (found,) = loaded.facts(count_runs=False).to_dict("records")
    assert found["peak_vram_gb"] == 1.0
    assert found["own_vram_gb"] == pytest.approx(1.0 - 2e-3)
    assert math.isnan(found["tflop"])
