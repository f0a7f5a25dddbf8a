"""`vhsbench report --costs-from`: accuracies of one run on the times of another device."""

from __future__ import annotations

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.report.build import build
from vhsbench.harness.report.derived import derive
from vhsbench.harness.store.tables import StoreError, load_run

PUBLISHED = "published, A100"
VERIFIERS = ["none", "vhs", "mllm-clip", "mllm-ae"]


class Counted:
    """What counting SANA-Sprint takes seconds to find."""

    prompt = "a bench"
    tflop = CostModel(10.0, 2.0)


@pytest.fixture
def counted(monkeypatch):
    asked = []

    def count(generator, verifier, steps, prompt):
        asked.append((generator, steps, verifier))
        return Counted()

    monkeypatch.setattr("vhsbench.harness.cost.counting.count_pipeline", count)
    return asked


@pytest.fixture
def sana(make_run, tmp_path):
    """A run that says it is of SANA-Sprint, of one step and of two, and how long its stages took here."""
    entries = [{"name": "sana-sprint", "label": "sprint"}, {"name": "sana-sprint", "options": {"steps": 2}}]
    return make_run(
        tmp_path / "sana", generators=entries, pool=16, budgets_ms=[550, 1100, 1650], gallery_prompts=0
    )


def ns(rows, generator, verifier):
    at = rows[(rows["generator"] == generator) & (rows["verifier"] == verifier)]
    return at.sort_values("budget_ms")["best_of_n"].tolist()


def test_the_published_times_give_the_published_n(sana, counted):
    derived = derive(load_run(sana), "a100-paper")
    table = next(t for t in derived.tables if t.name == "budgets")
    assert ns(table.rows, "sprint", "mllm-clip") == [2, 4, 6]
    assert ns(table.rows, "sprint", "vhs") == [4, 9, 15]
    assert ns(table.rows, "sprint", "mllm-ae") == [3, 7, 11]
    assert ns(table.rows, "sprint", "none") == [1, 1, 1]
    assert set(table.rows["generator"]) == {"sprint"}  # nothing was published of two steps
    assert len(derived.unmeasured) == 4
    assert "sana-sprint (2 steps) with vhs: a100-paper has no time of it." in derived.unmeasured
    assert derived.models["tflop"]["sprint", 1, "vhs"] == Counted.tflop
    assert {(g, s) for g, s, _ in counted} == {("sana-sprint", 1)}


def test_all_that_shows_times_says_whose_they_are(sana, counted, undrawn):
    with undrawn():
        build(sana)
    assert (sana / "figures" / "accuracy_over_time_sana-sprint.csv").exists()
    measured_here = ["latency.csv", "costs.md"]
    assert all((sana / "tables" / name).exists() for name in measured_here)
    with undrawn():
        summary = build(sana, costs_from="a100-paper", with_published=True)
    for table in ("budgets", "scoring", "headline", "budgets_published"):
        rows = pd.read_csv(sana / "tables" / f"{table}.csv")
        if "source" in rows:
            rows = rows[rows["source"] == "measured here"]
        if "key" in rows:
            assert pd.isna(rows.set_index("key").loc["tflop_per_candidate", "times"])  # counted
            rows = rows[rows["key"] != "tflop_per_candidate"]
        assert set(rows["times"]) == {PUBLISHED}, table
        assert PUBLISHED in (sana / "tables" / f"{table}.md").read_text()
        assert PUBLISHED in (sana / "tables" / f"{table}.tex").read_text()
    assert {t["times"] for t in summary["budgets"]} == {PUBLISHED}
    for figure in ("accuracy_over_time_sprint", "teaser_sprint", "n_per_budget_sprint"):
        assert set(pd.read_csv(next((sana / "figures").glob(f"{figure}*.csv")))["times"]) == {PUBLISHED}
    # what was measured here is of another clock, and gone
    assert not any((sana / "tables" / name).exists() for name in measured_here)
    assert not list((sana / "figures").glob("latency_breakdown*"))
    assert not list((sana / "figures").glob("accuracy_over_memory*"))
    assert not list((sana / "figures").glob("accuracy_over_time_sana-sprint*"))  # of two steps
    headline = pd.read_csv(sana / "tables" / "headline.csv").set_index("key")["measured"]
    assert headline["time_per_candidate"] == pytest.approx(100 * (102 / 277 - 1))
    assert pd.isna(headline["peak_vram"])
    page = (sana / "report.html").read_text()
    assert "Time budget: " in page
    assert page.count(f"times: {PUBLISHED}") >= 5
    assert "times measured on" not in page
    assert 'id="stages"' not in page
    assert (summary["times"], summary["timing"], summary["timing_reasons"]) == (PUBLISHED, None, [])
    assert f"times: {PUBLISHED}; accuracies are this run's." in summary["notes"]


def test_accuracies_and_default_budgets(make_run, tmp_path, counted):
    path = make_run(tmp_path / "run", generators=[{"name": "sana-sprint"}], gallery_prompts=0)
    own, there = derive(load_run(path)), derive(load_run(path), "a100-paper")
    pd.testing.assert_frame_equal(own.curves, there.curves)
    assert own.budgets == [140, 270, 400]
    assert there.budgets == [550, 1100, 1700]  # T(2), T(4), T(6) of MLLM w/ CLIP on the A100
    assert own.times == ""
    assert "times" not in own.budget_rows


def test_a_generator_that_was_not_published_is_refused(made):
    with pytest.raises(StoreError) as error:
        derive(load_run(made), "a100-paper")
    said = str(error.value)
    assert said.startswith("a100-paper has no time of nano (1 step: mllm-ae, mllm-clip, none, vhs); it has ")
    assert "sana-sprint (1 step: mllm-ae, mllm-clip, none, vhs)" in said
    assert "\n" not in said


@pytest.fixture
def slower(make_run, tmp_path):
    """Another run of nano, under another label and without MLLM w/ AE, on a machine that takes twice the time."""
    verifiers = [{"name": "vhs"}, {"name": "mllm-clip"}]
    entries = [{"name": "nano", "label": "theirs"}]
    path = make_run(tmp_path / "slower", generators=entries, verifiers=verifiers, device="Slow 1")
    costs = pd.read_parquet(path / "costs.parquet")
    costs.assign(wall_ms=2 * costs["wall_ms"]).to_parquet(path / "costs.parquet")
    info = json.loads((path / "run.json").read_text())
    info["digests"].pop("costs.parquet")
    info["cells"] = {"theirs_steps=1_vhs": {"first_use": {"load_s": 7.5}}}
    (path / "run.json").write_text(json.dumps(info))
    return path


def test_the_times_of_another_run(made, slower, tmp_path):
    own, there = derive(load_run(made)), derive(load_run(made), str(slower))
    assert there.times == "times: of slower, measured on Slow 1"
    for verifier in ("none", "vhs", "mllm-clip"):
        mine, its = (d.models["wall_ms"]["nano", 1, verifier] for d in (own, there))
        assert (its.fixed, its.per_candidate) == pytest.approx((2 * mine.fixed, 2 * mine.per_candidate))
    assert there.unmeasured == [f"nano (1 steps) with mllm-ae: {slower} has no time of it."]
    assert set(there.budget_rows["verifier"]) == {"none", "vhs", "mllm-clip"}
    assert set(there.run.costs["device"]) == {"Slow 1"}
    stages = there.breakdown("nano", 1).set_index(["verifier", "stage"])["wall_ms"]
    assert stages["mllm-clip", "denoise"] == 44
    assert set(there.latency["times"]) == set(there.costs["times"]) == {"of slower, measured on Slow 1"}
    first_use = there.costs.set_index(["verifier", "stage", "n"])["load_s"].dropna()
    assert first_use.to_dict() == {("vhs", "end_to_end", 1): 7.5}  # not this run's own
    assert there.latency["error_percent"].abs().max() < 1e-6


def test_reliability_is_that_of_the_other_runs_costs(made, slower):
    assert not derive(load_run(made), str(slower)).unreliable
    costs = pd.read_parquet(slower / "costs.parquet")
    whole = costs["stage"] == "end_to_end"
    costs.assign(wall_ms=costs["wall_ms"].where(~whole, 2 * costs["wall_ms"])).to_parquet(
        slower / "costs.parquet"
    )
    assert any("off the whole runs" in reason for reason in derive(load_run(made), str(slower)).unreliable)
    assert not derive(load_run(made)).unreliable


def test_the_command_line(made, slower, tmp_path, undrawn):
    def report(*more):
        with undrawn():
            return CliRunner().invoke(app, ["report", str(made), "--out", str(tmp_path / "out"), *more])

    done = report("--costs-from", str(slower))
    assert done.exit_code == 0, done.output
    said = " ".join(done.stdout.split())
    assert "accuracies measured here; times: of slower, measured on Slow 1" in said
    assert "left out: nano (1 steps) with mllm-ae:" in said
    assert str(report("--costs-from", "a100-paper").exception).startswith("a100-paper has no time of nano")
    assert "is not a run directory" in str(report("--costs-from", "a100").exception)


def test_a_run_without_any_of_the_pipelines_says_what_it_has(make_run, made, slower, tmp_path):
    other = make_run(tmp_path / "other", generators=[{"name": "sana-sprint"}], gallery_prompts=0)
    with pytest.raises(StoreError) as error:
        derive(load_run(other), str(slower))
    assert str(error.value) == (
        f"{slower} has no time of sana-sprint (1 step: mllm-ae, mllm-clip, none, vhs); "
        "it has nano (1 step: mllm-clip, none, vhs)."
    )
