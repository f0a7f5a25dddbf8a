"""What the noisy neighbour's benchmark concludes from rows, and that processes that it starts know the copy of VHS."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pandas as pd
import psutil
import pytest

from vhsbench.harness.cost.rounds import Measured

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


def test_copies_of_a_verifier_that_cost_the_same_have_one_n(noisy):
    found = noisy.result(costs())
    # turns are slower by 0 to 40%, a good one by 10%
    assert found["t4_ms"] == pytest.approx((14 + 4 * 7) * 1.1)
    assert found["t4_copy_ms"] == pytest.approx(found["t4_ms"])
    assert found["vhs_to_clip"] == pytest.approx(7 / 20)
    # CLIP's T(4) is 84, and 5% more is allowed: (84 * 1.05 - 14) / 7 = 10.6
    assert (found["n"], found["n_copy"], found["agree"], found["n_agree"]) == (10, 10, True, True)
    assert noisy.result(costs(slower=0))["reliable"]


def test_a_copy_that_costs_more_is_seen(noisy):
    found = noisy.result(costs(copy=3.0, slower=0))
    # once 4 + 12 + 6, a candidate 1 + 12 + 6
    assert found["t4_copy_ms"] == pytest.approx(22 + 4 * 19)
    assert (found["n"], found["n_copy"], found["agree"], found["n_agree"]) == (10, 3, False, False)
    assert not found["reliable"]  # the head of the copy takes longer than the whole forward


def test_rows_of_a_single_turn_have_no_interval(noisy):
    assert noisy.result(costs(turns=1))["agree"] is noisy.result(costs(turns=1))["n_agree"] is None


@pytest.mark.parametrize(
    ("one", "other", "meet"),
    [((10, 12), (11, 14), True), ((11, 14), (10, 12), True), ((10, 14), (11, 12), True), ((10, 11), (12, 14), False)],
)  # fmt: skip
def test_intervals_overlap(noisy, one, other, meet):
    assert noisy.meet(one, other) is meet


def test_an_interval_that_is_not_known_meets_nothing(noisy):
    assert noisy.meet(None, (3, 5)) is None


def test_summary_counts_runs_by_method(noisy):
    rows = [("in turns", 8, 8, 100.0, 101.0, True, True, True), ("in turns", 8, 9, 100.0, 95.0, True, True, False),
            ("one after another", 8, 5, 100.0, 150.0, None, False, False)]  # fmt: skip
    columns = ["method", "n", "n_copy", "t4_ms", "t4_copy_ms", "agree", "n_agree", "reliable"]
    found = pd.DataFrame(rows, columns=columns).assign(run=0, vhs_to_clip=[0.4, 0.5, 0.6], took_s=1.0)
    summary = noisy.summary(found)
    turns, alone = summary.loc["in turns"], summary.loc["one after another"]
    assert (turns["runs"], turns["same_n"], turns["agree"], turns["reliable"]) == (2, 1, 2, 1)
    assert (turns["n_agree"], alone["n_agree"]) == (2, 0)
    assert (turns["known"], alone["known"]) == (2, 0)  # of the one after another, no interval of T(4)
    assert (turns["t4_off_percent"], turns["t4_off_most"]) == pytest.approx(((1 + 100 / 19) / 2, 100 / 19))
    assert (turns["vhs_to_clip_low"], turns["vhs_to_clip_high"]) == (0.4, 0.5)
    assert (alone["same_n"], alone["t4_off_most"]) == (0, pytest.approx(50.0))
    assert (
        summary[["n_agree", "agree"]].to_csv(index=False) == "n_agree,agree\n2,2\n0,\n"
    )  # unknown is not none
    assert noisy.summary(found.head(1))[["agree", "n_agree"]].to_csv(index=False) == "agree,n_agree\n1,1\n"


def test_kept_rows_give_each_run_again(noisy, tmp_path, capsys):
    kept = pd.concat([costs().assign(run=0), costs(copy=3.0).assign(run=1)])
    kept = kept.assign(machine=1, device="cpu", neighbour="busy", method="in turns", took_s=60.0)
    found = noisy.derive(kept)
    assert list(found["n_copy"]) == [10, 3]
    assert list(found["took_s"]) == [60.0, 60.0]
    kept.to_parquet(tmp_path / "costs.parquet")
    noisy.main(["--derive", str(tmp_path / "costs.parquet")])
    assert "in turns" in capsys.readouterr().out


@pytest.fixture
def opened(noisy, monkeypatch):
    """Stands for pipelines in processes: how often they were opened, and how often all were measured."""
    seen = {"opened": 0, "measured": 0, "busy": []}

    @contextmanager
    def opened_in_turns(cells, passes):
        assert not passes
        assert [cell.shown for cell in cells] == ["", *noisy.NEEDS]
        seen["opened"] += 1

        def measure():
            seen["measured"] += 1
            rows = costs(slower=0.01).assign(device="a CPU")
            return [Measured(rows[rows["verifier"] == name].to_dict("records")) for name in CALLS]

        yield measure

    @contextmanager
    def neighbour(device):
        yield lambda seed: nullcontext(seen["busy"].append(seed))

    monkeypatch.setattr(noisy, "opened_in_turns", opened_in_turns)
    monkeypatch.setattr(noisy, "neighbour", neighbour)
    return seen


def test_pipelines_are_opened_once_for_all_runs_and_a_second_start_makes_those_that_are_missing(
    noisy, opened, tmp_path
):
    asked = ["--out", str(tmp_path), "--only", noisy.TURNS, "--quiet", "1"]
    noisy.main([*asked, "--runs", "2", "--first", "3"])
    assert opened == {"opened": 1, "measured": 3, "busy": [3, 4]}
    noisy.main([*asked, "--runs", "4", "--first", "3"])
    assert opened == {"opened": 2, "measured": 5, "busy": [3, 4, 5, 6]}
    found = pd.read_csv(tmp_path / "runs.csv")
    assert sorted(zip(found["neighbour"], found["run"], strict=True)) == [
        ("busy", 3), ("busy", 4), ("busy", 5), ("busy", 6), ("quiet", 3)
    ]  # fmt: skip
    kept = pd.read_parquet(tmp_path / "costs.parquet")
    assert len(kept) == 5 * len(costs())
    assert noisy.derive(kept)["t4_ms"].tolist() == pytest.approx(found["t4_ms"].tolist())
    noisy.main([*asked, "--runs", "4", "--first", "3"])
    assert opened["opened"] == 2  # nothing is missing


def test_no_run_is_started_that_would_end_too_late(noisy, opened, tmp_path):
    noisy.main(["--out", str(tmp_path), "--only", noisy.TURNS, "--seconds", "0"])
    assert opened["measured"] == 0
    assert not (tmp_path / "runs.csv").exists()


def test_runs_of_other_options_are_not_gone_on_with(noisy, opened, tmp_path):
    asked = ["--out", str(tmp_path), "--only", noisy.TURNS, "--runs", "1"]
    noisy.main(asked)
    with pytest.raises(SystemExit, match="repeats 15, not 4; give another --out"):
        noisy.main([*asked, "--repeats", "4"])


def test_quiet_runs_are_spread_among_the_others(noisy):
    planned = noisy.plan(argparse.Namespace(runs=4, quiet=2, first=0, only=noisy.TURNS))
    assert [run.neighbour for run in planned] == ["busy", "quiet", "busy", "busy", "quiet", "busy"]


def test_the_neighbour_works_while_it_is_switched_on_alone(noisy):
    with noisy.registered(noisy.COPY), noisy.neighbour("cpu") as busy:
        (process,) = (c for c in psutil.Process().children() if "while True" in " ".join(c.cmdline()))
        until(lambda: process.status() == psutil.STATUS_STOPPED)  # a signal takes its time
        before = process.cpu_times().user
        with busy(0):
            until(lambda: process.cpu_times().user > before)
        until(lambda: process.status() == psutil.STATUS_STOPPED)
    assert not process.is_running()


def until(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_copy_is_found_in_a_process_that_is_started(noisy):
    ask = "from vhsbench import verifiers; print(type(verifiers.create('vhs-copy')) is type(verifiers.create('vhs')))"
    with noisy.registered(noisy.COPY):
        child = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False)
    assert child.stdout.strip() == "True", child.stderr
