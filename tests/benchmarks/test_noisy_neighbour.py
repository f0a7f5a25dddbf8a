"""What the noisy neighbour's benchmark concludes from rows, and that processes that it starts know the copy of VHS."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from vhsbench.harness.cost.cost_model import CostModel

CALLS = {  # ms, by verifier and stage: VHS costs 14 once and 7 a candidate, CLIP 4 and 20
    "": {"noise": 1.0, "encode": 4.0, "denoise": 8.0, "decode": 6.0},
    "vhs": {"head": 4.0, "score": 2.0, "tail": 4.0},
    "vhs-copy": {"head": 4.0, "score": 2.0, "tail": 4.0},
    "mllm-clip": {"score": 5.0},
}


@pytest.fixture
def noisy(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
    import noisy_neighbour

    return noisy_neighbour


def costs(copy=1.0, turns=5, slower=0.1):
    """Rows of a run, each of whose turns is slower than the last; the copy's times are multiplied by `copy`."""
    return pd.DataFrame([
        {"generator": "nano", "steps": 1, "verifier": verifier, "variant": "", "stage": stage, "n": 1, "batch": 1,
         "repeat": turn, "visit": turn, "status": "ok", "note": "", "others_percent": 0.0,
         "wall_ms": ms * (1 + slower * turn) * (copy if verifier == "vhs-copy" else 1)}
        for verifier, stages in CALLS.items() for stage, ms in stages.items() for turn in range(turns)
    ])  # fmt: skip


def model(*t4_ms):
    """Return a cost model whose T(4) is drawn from these times."""
    draws = np.array([[0.0, each / 4] for each in t4_ms])
    return CostModel(0.0, float(np.median(draws[:, 1])), draws)


def test_copies_of_a_verifier_that_cost_the_same_have_one_n(noisy):
    found = noisy.result(costs())
    # turns are slower by 0 to 40%, a good one by 10%
    assert found["t4_ms"] == pytest.approx((14 + 4 * 7) * 1.1)
    assert found["t4_copy_ms"] == pytest.approx(found["t4_ms"])
    assert found["vhs_to_clip"] == pytest.approx(7 / 20)
    # CLIP's T(4) is 84, and 5% more is allowed: (84 * 1.05 - 14) / 7 = 10.6
    assert (found["n"], found["n_copy"], found["agree"]) == (10, 10, True)
    assert noisy.result(costs(slower=0))["reliable"]


def test_a_copy_that_costs_more_is_seen(noisy):
    found = noisy.result(costs(copy=3.0, slower=0))
    # once 4 + 12 + 6, a candidate 1 + 12 + 6
    assert found["t4_copy_ms"] == pytest.approx(22 + 4 * 19)
    assert (found["n"], found["n_copy"], found["agree"]) == (10, 3, False)
    assert not found["reliable"]  # the head of the copy takes longer than the whole forward


def test_rows_of_a_single_turn_have_no_interval(noisy):
    assert noisy.result(costs(turns=1))["agree"] is None


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [((10, 12), (11, 14), True), ((11, 14), (10, 12), True), ((10, 14), (11, 12), True), ((10, 11), (12, 14), False)],
)  # fmt: skip
def test_intervals_overlap(noisy, one, other, meet):
    assert noisy.overlap(model(*one), model(*other)) is meet


def test_a_model_that_was_not_resampled_overlaps_nothing(noisy):
    assert noisy.overlap(CostModel(0.0, 1.0), model(3, 5)) is None


def test_summary_counts_runs_by_method(noisy):
    rows = [("in turns", 8, 8, 100.0, 101.0, True, True), ("in turns", 8, 9, 100.0, 95.0, True, False),
            ("one after another", 8, 5, 100.0, 150.0, None, False)]  # fmt: skip
    columns = ["method", "n", "n_copy", "t4_ms", "t4_copy_ms", "agree", "reliable"]
    found = pd.DataFrame(rows, columns=columns).assign(run=0, vhs_to_clip=[0.4, 0.5, 0.6], took_s=1.0)
    summary = noisy.summary(found)
    turns, alone = summary.loc["in turns"], summary.loc["one after another"]
    assert (turns["runs"], turns["same_n"], turns["agree"], turns["reliable"]) == (2, 1, 2, 1)
    assert (turns["t4_off_percent"], turns["t4_off_most"]) == pytest.approx(((1 + 100 / 19) / 2, 100 / 19))
    assert (turns["vhs_to_clip_low"], turns["vhs_to_clip_high"]) == (0.4, 0.5)
    assert (alone["same_n"], alone["agree"], alone["t4_off_most"]) == (0, 0, pytest.approx(50.0))


def test_kept_rows_give_each_run_again(noisy, tmp_path, capsys):
    kept = pd.concat([costs().assign(run=0), costs(copy=3.0).assign(run=1)])
    kept = kept.assign(machine=1, device="cpu", neighbour="busy", method="in turns", took_s=60.0)
    found = noisy.derive(kept)
    assert list(found["n_copy"]) == [10, 3]
    assert list(found["took_s"]) == [60.0, 60.0]
    kept.to_parquet(tmp_path / "costs.parquet")
    noisy.main(["--derive", str(tmp_path / "costs.parquet")])
    assert "in turns" in capsys.readouterr().out


def test_the_copy_is_found_in_a_process_that_is_started(noisy):
    ask = "from vhsbench import verifiers; print(type(verifiers.create('vhs-copy')) is type(verifiers.create('vhs')))"
    with noisy.registered(noisy.COPY):
        child = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    assert child.stdout.strip() == "True", child.stderr
