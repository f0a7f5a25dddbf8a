"""The dry run of the benchmark of several GPUs, and the arithmetic of its summaries."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def tables(benchmark_script):
    return benchmark_script("multi_gpu_tables")


@pytest.fixture
def processes(benchmark_script):
    return benchmark_script("processes")


@pytest.fixture
def multi_gpu(benchmark_script, monkeypatch):
    """The benchmark, whose import changes the environment."""
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    return benchmark_script("multi_gpu")


def part(name, out, **facts):
    file = out / "parts" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    facts = {"status": "ok", "seconds": 1.0, "cards": [], **facts}
    file.write_text(json.dumps(facts), encoding="utf-8")


def test_the_parts_of_a_dry_run_are_done_once_and_one_that_fails_stops_no_other(multi_gpu, tmp_path, capsys):
    arguments = ["--out", str(tmp_path), "--gpus", "2", "--tiny", "--only", "sweep-1,train-1,reduce"]
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "reduce.json").write_text('{"status": "failed: once", "seconds": 0, "cards": []}')
    multi_gpu.main(arguments)
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if ": ok, " in line], said
    sweep = pd.read_csv(tmp_path / "sweeps.csv").set_index("part").loc["sweep-1"]
    assert sweep["candidates"] == 4 * 8 * 2
    assert sweep["efficiency"] == 1
    trained = pd.read_csv(tmp_path / "training.csv")
    assert list(trained["stage"]) == ["align", "finetune"]
    assert (trained["samples_per_s"] > 0).all()
    assert list(pd.read_csv(tmp_path / "losses.csv")["step"]) == [1, 2, 3, *range(1, 7), 6]
    assert pd.read_csv(tmp_path / "reduce.csv")["bus_gb_per_s"].gt(0).all()  # what had failed was done again
    before = {f.name: f.read_bytes() for f in (tmp_path / "parts").iterdir()}
    multi_gpu.main(arguments)
    assert ": ok, " not in capsys.readouterr().out
    assert {f.name: f.read_bytes() for f in (tmp_path / "parts").iterdir()} == before


def test_a_part_without_time_is_not_begun(multi_gpu, tmp_path, capsys):
    multi_gpu.main(["--out", str(tmp_path), "--tiny", "--seconds", "5"])
    assert "sweep-1: no time is left for it." in capsys.readouterr().out
    assert not list((tmp_path / "parts").iterdir())


def test_steady_work_leaves_out_the_beginning_and_the_tail(tables):
    assert tables.window(8, 1) == (1, 6)
    assert tables.window(16, 2) == (3, 13)
    assert tables.window(20, 4) == (7, 15)
    assert tables.window(4, 2) == (1, 3)  # too few to leave any out but the first


def test_efficiency_is_the_rate_a_gpu_over_that_of_one(tables, tmp_path):
    def sweep(gpus, workers, every_s, shards):
        return {"gpus": gpus, "workers": workers, "candidates": 64 * shards, "started": 100.0,
                "finished_s": [30 + every_s * i for i in range(shards)]}  # fmt: skip

    part("sweep-1", tmp_path, **sweep(1, 1, 8.0, 8))
    part("sweep-all", tmp_path, **sweep(2, 2, 5.0, 16))
    cards = [
        [100.0, 0, 1.0, 0],
        [139.5, 0, 21.0, 90],
        [140.5, 0, 9.0, 0],
        [143.0, 0, 1.5, 0],
        [160.0, 0, 1.0, 0],
    ]
    part("sweep-killed", tmp_path, **sweep(2, 2, 5.0, 8) | {"killed": 140.0, "cards": cards})
    tables.write(tmp_path)
    rows = pd.read_csv(tmp_path / "sweeps.csv").set_index("part")
    assert rows.loc["sweep-1", "images_per_s"] == pytest.approx(8)
    assert rows.loc["sweep-all", "images_per_s"] == pytest.approx(12.8)
    assert rows.loc["sweep-all", "efficiency"] == pytest.approx(0.8)
    killed = rows.loc["sweep-killed"]
    assert pd.isna(killed["images_per_s"])
    assert (killed["freed_gb"], killed["freed_within_s"]) == (19.5, 3.0)
    assert (killed["before_gb_0"], killed["peak_gb_0"], killed["after_gb_0"]) == (1, 21, 1)


def test_losses_are_compared_step_by_step_and_rates_without_warm_up(tables, tmp_path):
    def rows(step_s, off=0.0):
        align = [["align", i, "train", 2.0, 10 + step_s * i] for i in range(1, 4)]
        tune = [["finetune", i, "train", 1.0 + off * (i == 5), 3 + step_s * i] for i in range(1, 11)]
        return [*align, *tune, ["finetune", 10, "validation", 9.0, None]]

    common = {"sharding": "none", "batches": {"align": 512, "finetune": 64}}
    part("train-1", tmp_path, processes=1, rows=rows(4.0), **common)
    part("train-ddp", tmp_path, processes=2, rows=rows(2.5, 1e-3), **common)
    part("train-killed", tmp_path, processes=2, rows=rows(9.0, 1e-3), killed=1.0, **common)
    tables.write(tmp_path)
    found = pd.read_csv(tmp_path / "training.csv").set_index(["part", "stage"])
    assert found.loc["train-1", "samples_per_s"].tolist() == pytest.approx([128, 16])
    assert found.loc["train-ddp", "efficiency"].tolist() == pytest.approx([0.8, 0.8])
    assert found.loc["train-ddp", "largest_loss_difference"].tolist() == pytest.approx([0, 1e-3])
    killed = found.loc["train-killed"]
    assert killed["largest_loss_difference"].tolist() == [0, 0]  # against the training that nobody killed
    assert killed["step_s"].isna().all()


def test_the_tables_in_the_repository_are_those_of_its_parts(tables, tmp_path):
    kept = BENCHMARKS.parent / "results" / "h200x2"
    shutil.copytree(kept / "parts", tmp_path / "parts")
    tables.write(tmp_path)
    found = {f.name: pd.read_csv(f) for f in tmp_path.glob("*.csv")}
    assert found.keys() == {f.name for f in kept.glob("*.csv")}
    for name, table in found.items():
        pd.testing.assert_frame_equal(table, pd.read_csv(kept / name))


def test_nothing_of_a_command_outlives_it(processes, tmp_path):
    log = tmp_path / "log"
    child = f"{sys.executable} -c 'import time; time.sleep(60)'"
    command = processes.Command(["sh", "-c", f"{child} & echo here; wait"], log, float("inf"))
    while "here" not in log.read_text():
        time.sleep(0.02)
    command.until = time.monotonic()
    with pytest.raises(processes.TooSlow, match="ended with: here"), command:
        command.wait()
    assert not command.family()
    assert command.process.poll() is not None
