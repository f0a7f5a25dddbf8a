from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.cost import roofline
from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.cost.plan import PAPER, PlanError, Priced, from_device, from_run, plan
from vhsbench.harness.cost.roofline import DeviceError, device, measured_on
from vhsbench.harness.cost.rounds import cell_name
from vhsbench.harness.cost.variants import LOOPS
from vhsbench.harness.store.tables import SCHEMAS, RunStore, StoreError

BUDGETS = ["550ms", "1100 ms", "1.65s"]


def ns(rows, generator, verifier):
    return [r["n"] for r in rows if (r["generator"], r["verifier"]) == (generator, verifier)]


def test_the_published_timings_give_the_published_n():
    rows = plan(from_device(PAPER, ["ms"]), BUDGETS)
    assert ns(rows, "sana-sprint", "vhs") == [4, 9, 15]
    assert ns(rows, "sana-sprint", "mllm-clip") == [2, 4, 6]
    assert ns(rows, "sana-sprint", "mllm-ae") == [3, 7, 11]
    assert ns(rows, "flux-schnell", "mllm-clip") == [1, 2, 3]
    assert ns(rows, "sd3.5-turbo", "mllm-clip") == [1, 2, 3]
    assert ns(rows, "sana-sprint", "none") == [1, 1, 1]
    assert {r["basis"] for r in rows} == {"published, A100"}


def priced(fixed, per_candidate, verifier="vhs", unit="ms"):
    return Priced("g", 1, verifier, "", {unit: CostModel(fixed, per_candidate)}, {unit: "measured"})


def test_a_budget_below_one_candidate_is_said_and_is_no_n():
    (row,) = plan([priced(163, 102)], ["200ms"])
    assert row["answer"] == "below one candidate"
    assert row["n"] is None
    assert row["cost"] is None
    assert row["note"] == "one candidate costs 265 ms"
    (row,) = plan([priced(163, 102)], ["265ms"], tolerance=0)
    assert (row["answer"], row["n"]) == ("fits", 1)


def test_the_tolerance_counts():
    pipelines = [priced(0, 100)]
    assert plan(pipelines, ["290ms"])[0]["n"] == 3
    assert plan(pipelines, ["290ms"], tolerance=0)[0]["n"] == 2


def test_memory_that_does_not_grow_affords_any_n():
    (fits, not_one) = plan([priced(20, 0, unit="GB")], ["24GB", "16GB"])
    assert (fits["answer"], fits["n"]) == ("any N", None)
    assert not_one["answer"] == "below one candidate"


def test_an_unknown_cost_is_unknown():
    (row,) = plan([priced(1, 1)], ["40J"])
    assert (row["answer"], row["n"], row["note"]) == ("unknown", None, "energy not known")


def test_without_a_verifier_n_is_one():
    assert plan([priced(0, 10, "none")], ["1s"])[0]["n"] == 1
    assert plan([priced(0, 10, "none")], ["1ms"])[0]["answer"] == "below one candidate"


@given(st.floats(0, 100), st.floats(0.01, 100), st.integers(1, 1000), st.floats(0, 0.5))
def test_what_fits_fits_and_one_more_does_not(fixed, per_candidate, budget, tolerance):
    model = CostModel(fixed, per_candidate)
    row = plan([priced(fixed, per_candidate)], [f"{budget}ms"], tolerance)[0]
    limit = budget * (1 + tolerance)
    if row["answer"] == "fits":
        assert row["n"] >= 1
        assert row["cost"] <= limit + 1e-6
        assert model.predict(row["n"] + 1) > limit - 1e-6
    else:
        assert model.predict(1) > limit


def test_a_roofline_is_labelled_an_estimate():
    rows = plan(from_device("h100", ["ms"], ["nano"]), ["5ms", "3GFLOP"])
    assert all("estimate, not measured" in r["basis"] for r in rows if r["unit"] == "ms")
    assert {r["basis"] for r in rows if r["unit"] == "TFLOP"} == {"counted"}
    faster = plan(from_device("h200", ["ms"], ["nano"]), ["5ms"])
    slower = plan(from_device("l4", ["ms"], ["nano"]), ["5ms"])
    for quick, slow in zip(faster, slower, strict=True):
        assert quick["n"] >= slow["n"]


def test_the_bound_is_the_slower_of_arithmetic_and_bytes():
    h100 = device("h100")
    assert h100.bound_ms(0.989, 0.0) == pytest.approx(1.0)
    assert h100.bound_ms(0.0, 3.35) == pytest.approx(1.0)
    assert h100.bound_ms(0.989, 6.7) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"), ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H200", "h200"),
        ("NVIDIA L4", "l4"), ("NVIDIA GeForce RTX 4090", "rtx-4090"), ("NVIDIA L40S", None),
        ("NVIDIA H100 NVL", None), ("NVIDIA H100 PCIe", None), ("NVIDIA RTX 4090 Laptop GPU", None),
        ("AMD EPYC", None),
    ],
)  # fmt: skip
def test_a_data_sheet_is_for_its_very_card(driver, expected):
    found = measured_on(driver)
    assert (found.device if found else None) == expected


def test_every_data_sheet_has_a_source():
    for sheet in roofline.devices().values():
        assert sheet.source
        assert sheet.bf16_tflops > 100
        assert sheet.bandwidth_gb_s >= 300


def test_unknown_names_are_one_sentence():
    with pytest.raises(DeviceError, match="unknown device 'h10'; did you mean 'h100'"):
        from_device("h10", ["ms"])
    with pytest.raises(
        PlanError, match="no timing of 'sana-sprnt' was published; did you mean 'sana-sprint'"
    ):
        from_device(PAPER, ["ms"], ["sana-sprnt"])


@pytest.fixture
def finished(tmp_path):
    """A run with a measured VHS on a GPU, and a CLIP that ran out of memory."""
    wall = {"encode": 5, "noise": 1, "head": 6, "tail": 10, "decode": 14, "score": 3}
    empty = dict.fromkeys(SCHEMAS["costs"].names)
    base = empty | {"generator": "g", "steps": 1, "verifier": "vhs", "variant": "", "batch": 1, "repeat": 0,
                    "n": 1, "device": "NVIDIA X", "status": "ok", "note": ""}  # fmt: skip
    rows = [base | {"stage": s, "wall_ms": w, "tflop": w / 10, "energy_j": w / 100} for s, w in wall.items()]
    rows += [
        base | {"stage": "end_to_end", "n": n, "wall_ms": 30 + 10 * n, "peak_vram_gb": 10 + 0.5 * n}
        for n in (1, 2, 4)
    ]
    lost = {"stage": "end_to_end", "verifier": "mllm-clip", "status": "oom", "note": "lost", "device": None}
    rows.append(base | lost)
    rows += [base | {"stage": "end_to_end", "variant": v, "n": 4, "wall_ms": 99} for v in LOOPS]
    cells = {cell_name("g", 1, "vhs", ""): {"needs": "hidden"}}
    with RunStore(tmp_path / "run", {"name": "x"}) as store:
        store.write_prompts([])
        store.write_shard("costs", "a", pd.DataFrame(rows))
        store.update(cells=cells)
        store.consolidate()
        store.update(status="complete")
    return tmp_path / "run"


def test_a_run_plans_time_flops_memory_and_energy(finished):
    pipelines = from_run(finished)
    assert {(p.verifier, p.variant) for p in pipelines} == {("vhs", ""), ("mllm-clip", "")}  # no loop
    rows = {(r["verifier"], r["unit"]): r for r in plan(pipelines, ["60ms", "5TFLOP", "12GB", "0.5J"], 0)}
    assert rows["vhs", "ms"]["n"] == 3  # 29 + 10 n
    assert rows["vhs", "TFLOP"]["n"] == 2  # 2.9 + n
    assert rows["vhs", "GB"]["n"] == 4  # 10 + n / 2
    assert rows["vhs", "J"]["n"] == 2  # 0.29 + 0.1 n
    assert rows["vhs", "ms"]["basis"] == "measured on NVIDIA X"
    assert "VRAM" in rows["vhs", "GB"]["basis"]
    for unit in ("ms", "TFLOP", "GB", "J"):
        assert rows["mllm-clip", unit]["answer"] == "unknown"
    vhs = next(p for p in pipelines if p.verifier == "vhs")
    assert vhs.error_percent == pytest.approx(100 * (1 - 39 / 40))
    assert not math.isnan(vhs.error_percent)


def test_memory_at_one_n_says_nothing_of_others(finished):
    costs = pd.read_parquet(finished / "costs.parquet")
    costs[(costs["stage"] != "end_to_end") | (costs["n"] == 1)].to_parquet(finished / "costs.parquet")
    (row,) = (r for r in plan(from_run(finished), ["12GB"]) if r["verifier"] == "vhs")
    assert (row["answer"], row["n"]) == ("unknown", None)


def test_the_measured_h200_plans():
    pipelines = [p for p in from_run(Path(__file__).parents[3] / "results" / "h200") if not p.variant]
    rows = plan(pipelines, ["550ms", "40J"])
    n = {
        (r["verifier"], r["unit"]): r["n"]
        for r in rows
        if r["generator"] == "sana-sprint" and r["steps"] == 1
    }
    assert {v: n[v, "ms"] for v in ("vhs", "mllm-ae", "mllm-clip")} == {
        "vhs": 11,
        "mllm-ae": 9,
        "mllm-clip": 3,
    }
    assert n["vhs", "J"] > n["mllm-clip", "J"]


def test_the_command_line(finished):
    def command(*arguments):
        return CliRunner().invoke(app, list(arguments))

    ran = command("plan", "--costs", str(finished), "--budget", "60ms", "--budget", "12GB", "--json")
    assert ran.exit_code == 0, ran.output
    rows = json.loads(ran.stdout)["plan"]
    assert {(r["verifier"], r["unit"]) for r in rows} == {
        (v, u) for v in ("vhs", "mllm-clip") for u in ("ms", "GB")
    }
    shown = command("plan", "--costs", str(finished), "--budget", "1ms")
    assert "one candidate" in shown.stdout
    assert "T(N) of g with vhs" in shown.stdout
    unknown = command("plan", "--budget", "24GB", "--budget", "550ms", "--generator", "sana-sprint").stdout
    said = "memory is known only where measured: give --costs FOLDER of a run that measured it, such as results/h200"
    assert said in " ".join(unknown.split())
    assert "known only" not in shown.stdout
    both = command("plan", "--costs", str(finished), "--device", "h100", "--budget", "1s")
    assert str(both.exception) == "give --device or --costs, not both: a plan is for one machine."
    counted = command("cost", "nano", "--verifier", "vhs", "-n", "3", "--json")
    found = json.loads(counted.stdout)
    assert found["total_tflop"] == pytest.approx(found["fixed_tflop"] + 3 * found["per_candidate_tflop"])
    assert "TFLOP(N) =" in command("cost", "nano").stdout


@pytest.mark.parametrize("tolerance", [0.0, 0.2])
def test_a_runs_tolerance_is_the_default_of_the_command(finished, tolerance):
    info = json.loads((finished / "run.json").read_text())
    (finished / "run.json").write_text(json.dumps(info | {"config": {"tolerance": tolerance}}))

    def said(*more):
        command = ["plan", "--costs", str(finished), "--budget", "50ms", "--json", *more]
        found = json.loads(CliRunner().invoke(app, command).stdout)
        return found["tolerance"], [r["n"] for r in found["plan"] if r["verifier"] == "vhs"]

    assert said() == (tolerance, [3 if tolerance else 2])  # 29 + 10 n
    assert said("--tolerance", "0.9") == (0.9, [6])


@pytest.mark.parametrize("tolerance", ["a lot", -1, 1, None, True])
def test_a_damaged_tolerance_is_one_sentence(finished, tolerance):
    info = json.loads((finished / "run.json").read_text())
    (finished / "run.json").write_text(json.dumps(info | {"config": {"tolerance": tolerance}}))
    with pytest.raises(StoreError, match=r"run\.json is damaged: its config has no tolerance from 0 to 1\."):
        from_run(finished)


def test_tainted_rows_plan_nothing_and_are_said(finished):
    costs = pd.read_parquet(finished / "costs.parquet")
    slow = costs[costs["verifier"] == "vhs"].assign(
        repeat=1, status="tainted", note="thermal slowdown", wall_ms=lambda c: 9 * c["wall_ms"], energy_j=9.0
    )
    both = pd.concat([costs, slow])
    both.to_parquet(finished / "costs.parquet")

    def rows(verifier):
        found = plan(from_run(finished), ["60ms", "5TFLOP", "12GB", "0.5J"], 0)
        return {r["unit"]: r for r in found if r["verifier"] == verifier}

    assert [rows("vhs")[u]["n"] for u in ("ms", "TFLOP", "GB", "J")] == [3, 2, 4, 2]
    assert rows("mllm-clip")["ms"]["note"] == "time not known: 1 of 1 rows oom (lost)"
    shown = CliRunner().invoke(app, ["plan", "--costs", str(finished), "--budget", "60ms"]).stdout
    assert "left out of g with vhs: 9 of 18 rows tainted (thermal slowdown)" in " ".join(shown.split())
    both.loc[(both["verifier"] == "vhs") & (both["stage"] == "head"), "status"] = "tainted"
    both.loc[(both["verifier"] == "vhs") & (both["stage"] == "end_to_end"), "status"] = "tainted"
    both.to_parquet(finished / "costs.parquet")
    vhs = rows("vhs")
    assert vhs["ms"]["answer"] == vhs["GB"]["answer"] == vhs["J"]["answer"] == "unknown"
    assert vhs["ms"]["note"] == "time not known: 2 of 2 rows tainted (thermal slowdown)"
    assert vhs["GB"]["note"] == "memory not known: 6 of 6 rows tainted (thermal slowdown)"
    assert vhs["TFLOP"]["n"] == 2
