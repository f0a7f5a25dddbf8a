from __future__ import annotations

import html
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from vhsbench.harness.commands.listing import show_summary
from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.report.build import _cost_points, _summary
from vhsbench.harness.report.comparisons import headline, judged_yes_scores, paired_gain, time_saving
from vhsbench.harness.report.derived import derive
from vhsbench.harness.report.figures import overall
from vhsbench.harness.report.page import write_page
from vhsbench.harness.stats.curves import OVERALL, accuracy_curves
from vhsbench.harness.stats.expected import expected_accuracy
from vhsbench.harness.store.tables import StoreError, load_run


def tables(folder):
    return {table.name: table for table in derive(load_run(folder)).tables}


def test_one_generator_has_no_table_of_others_and_no_drift(made):
    assert list(tables(made)) == ["budgets", "scoring"]


def test_no_scoring_takes_any_candidate_judged_yes(loaded):
    one = loaded.scores[loaded.scores["verifier"] == "vhs"]
    curve = accuracy_curves(loaded.candidates, judged_yes_scores(one))
    curve = curve[(curve["verifier"] == "vhs") & (curve["tag"] == OVERALL)].sort_values("n")
    order = ["prompt_id", "seed", "index"]
    scores = one.sort_values(order)["score"].to_numpy().reshape(-1, 8)
    correct = loaded.candidates.sort_values(order)["correct"].to_numpy().reshape(-1, 8)
    expected = 100 * expected_accuracy(scores > 0, correct).mean(0)
    np.testing.assert_allclose(curve["accuracy"], expected)


def test_scoring_pairs_rows_at_the_same_n(made):
    rows = tables(made)["scoring"].rows
    for _, pair in rows.groupby(["budget_ms", "verifier"]):
        assert set(pair["scoring"]) == {"none", "token_probability"}
        assert pair["best_of_n"].nunique() == 1


def test_other_generators_are_judged_ones_alone(make_run, tmp_path):
    entries = [
        {"name": "nano", "verifiers": ["vhs"]},
        {"name": "nano", "options": {"steps": 4}, "pool": 2, "verifiers": ["mllm-clip"]},
        {"name": "nano", "label": "plain", "pool": 1, "verifiers": []},
    ]
    found = tables(make_run(tmp_path / "run", generators=entries))
    assert set(found["budgets"].rows["verifier"]) == {"none", "vhs", "mllm-clip"}
    others = found["generators"].rows
    pairs = set(others[["generator", "steps", "verifier"]].itertuples(index=False, name=None))
    assert pairs == {("nano", 1, "vhs"), ("nano", 4, "mllm-clip")}
    dear = others[(others["steps"] == 4) & (others["budget_ms"] == others["budget_ms"].min())]
    assert dear["best_of_n"].iloc[0] == 2


def test_drift_rows_have_a_paired_delta_for_vhs_alone(make_run, tmp_path):
    entries = [{"name": "nano", "drift": 0}, {"name": "nano", "label": "moved", "drift": 0.5}]
    run = make_run(tmp_path / "run", generators=entries, budgets_ms=[150])
    found = tables(run)
    rows = found["drift"].rows
    assert rows["drift"].tolist() == [0, 0, 0, 0.5, 0.5, 0.5]
    has = rows["delta"].notna()
    assert rows.loc[has, "verifier"].tolist() == ["vhs", "vhs"]
    for drift, part in rows.groupby("drift"):
        overall = part.set_index("verifier")[OVERALL]
        vhs = part[part["verifier"] == "vhs"].iloc[0]
        assert vhs["delta"] == pytest.approx(overall["vhs"] - overall["mllm-clip"]), drift
        assert vhs["delta_low"] <= vhs["delta"] <= vhs["delta_high"]
    assert set(found["budgets"].rows["generator"]) == {"nano"}


def test_a_lora_at_several_strengths_gives_drift_rows_at_the_unmoved_n(make_run, tmp_path):
    entries = [{"name": "nano"}] + [
        {"name": "nano", "lora": "bundled", "lora_strength": s} for s in (0.5, 1.0)
    ]
    run = load_run(make_run(tmp_path / "run", generators=entries, budgets_ms=[150]))
    slow = run.costs["generator"] == "nano+lora-1"
    run.costs.loc[slow, "wall_ms"] *= 1.4  # noise of another hour: enough for another N
    rows = {t.name: t for t in derive(run).tables}["drift"].rows
    assert rows["drift"].unique().tolist() == [0, 0.5, 1.0]
    assert rows["generator"].unique().tolist() == ["nano", "nano+lora-0.5", "nano+lora-1"]
    assert (rows.groupby("verifier")["best_of_n"].nunique() == 1).all()
    vhs = rows[rows["verifier"] == "vhs"].set_index("drift")
    assert vhs["delta"].notna().all()
    assert vhs["change"].isna().tolist() == [True, False, False]
    assert vhs["change"][1.0] == pytest.approx(vhs["delta"][1.0] - vhs["delta"][0])
    apart = vhs.loc[[0.5, 1.0], ["change_low", "change", "change_high"]].to_numpy()
    assert (np.diff(apart) >= 0).all()
    assert rows.loc[rows["verifier"] != "vhs", "change"].isna().all()


def test_a_gain_over_itself_is_exactly_zero(loaded):
    scores = pd.concat([loaded.scores, loaded.scores.assign(verifier=loaded.scores["verifier"] + "2")])
    gain = paired_gain(replace(loaded, scores=scores), ("nano", 1), {"vhs": 3, "vhs2": 3})
    assert (gain.mean[0], gain.low[0], gain.high[0]) == (0, 0, 0)


def test_headline_numbers_and_what_is_unknown(make_run, tmp_path):
    derived = derive(load_run(make_run(tmp_path / "run", vram=True)))
    found = derived.headline.set_index("key")["measured"]
    assert found["time_per_candidate"] == pytest.approx(100 * (19.5 / 64.5 - 1))
    assert found["peak_vram"] == pytest.approx(-25)
    at = derived.budget_rows[derived.budget_rows["budget_ms"] == derived.budgets[0]].set_index("verifier")[
        OVERALL
    ]
    assert found["overall_gain"] == pytest.approx(at["vhs"] - at["mllm-clip"])
    without = headline("nano", 1, {"wall_ms": {}, "tflop": {}}, derived.budget_rows, {})
    assert without.set_index("key")["measured"].drop("overall_gain").isna().all()


def curve(**by_verifier):
    return pd.DataFrame(
        [(v, n, a) for v, values in by_verifier.items() for n, a in enumerate(values, 1)],
        columns=["verifier", "n", "accuracy"],
    ).replace({"clip": "mllm-clip"})


def times(curves, models):
    saving = time_saving(curves, models)
    return saving.accuracy, saving.slow_ms, saving.fast_ms


def test_a_saving_holds_where_vhs_takes_less_and_the_intervals_of_the_times_are_apart():
    slow, curves = CostModel(0, 10), curve(vhs=[60, 70], clip=[60, 70])

    def holds(vhs, clip=slow):
        return time_saving(curves, {"vhs": vhs, "mllm-clip": clip}).holds

    assert holds(CostModel(0, 9))
    assert not holds(CostModel(0, 10))
    assert not holds(CostModel(0, 11))
    unsure = np.stack([np.zeros(100), np.linspace(7, 11, 100)], 1)
    assert not holds(CostModel(0, 9, unsure))
    assert holds(CostModel(0, 9, unsure), CostModel(0, 20))
    assert str(time_saving(curves, {"vhs": CostModel(0, 9), "mllm-clip": slow})) == (
        "VHS takes 10% less time for 70.0%"
    )


def test_time_saved_at_the_highest_accuracy_that_both_reach():
    models = {"vhs": CostModel(10, 1), "mllm-clip": CostModel(0, 10)}
    assert times(curve(vhs=[60, 70, 80], clip=[60, 65, 70]), models) == (70, 30, 12)
    assert times(curve(vhs=[60, 62, 64], clip=[60, 65, 70]), models) == (64, 20, 13)
    assert time_saving(curve(vhs=[60]), {"vhs": models["vhs"]}) is None


def test_a_run_that_does_not_say_what_a_verifier_reads(loaded):
    loaded.info.pop("needs")
    with pytest.raises(StoreError, match="does not say what 'vhs' reads"):
        derive(loaded)


def test_a_pipeline_without_cost_is_left_out_and_named(loaded):
    run = loaded
    keep = ~((run.costs["verifier"] == "vhs") & (run.costs["stage"] == "head"))
    object.__setattr__(run, "costs", run.costs[keep])
    derived = derive(run)
    assert "vhs" not in set(derived.budget_rows["verifier"])
    assert derived.headline.empty
    assert any("head" in reason and "vhs" in reason for reason in derived.unmeasured)


def spoiled(run, share):
    """The run with its slower repeats tainted: all of a stage's, or two of three, ten times as slow."""
    costs = run.costs.copy()
    these = costs["repeat"] >= (0 if share == "all" else 1)
    if share == "all":
        these &= (costs["verifier"] == "vhs") & costs["stage"].isin(["head", "end_to_end"])
    costs.loc[these, "wall_ms"] *= 10
    costs.loc[these, "peak_rss_gb"] *= 10
    costs.loc[these, ["status", "note"]] = ["tainted", "thermal slowdown"]
    return replace(run, costs=costs), int(these.sum())


def test_tainted_repeats_enter_no_number(made, tmp_path):
    clean = load_run(made)
    mixed, rows = spoiled(clean, "two of three")
    one, other = derive(clean), derive(mixed)
    assert one.models == other.models
    assert one.budgets == other.budgets
    pd.testing.assert_frame_equal(one.budget_rows, other.budget_rows)
    pd.testing.assert_frame_equal(one.latency, other.latency)
    pd.testing.assert_frame_equal(one.headline, other.headline)
    pd.testing.assert_frame_equal(one.breakdown("nano", 1), other.breakdown("nano", 1))
    for ours, theirs in zip(_cost_points_of(one), _cost_points_of(other), strict=True):
        pd.testing.assert_frame_equal(ours, theirs)
    same = [c for c in one.costs if c not in ("status", "tainted", "note", "repeats")]
    pd.testing.assert_frame_equal(one.costs[same], other.costs[same])
    assert (one.costs["repeats"] == 3).all()
    assert (other.costs[["repeats", "tainted"]] == [1, 2]).all().all()
    assert other.left_out == f"{rows} of {len(clean.costs)} rows tainted (thermal slowdown)"
    assert one.left_out == ""


def test_a_stage_with_tainted_repeats_alone_is_empty_and_says_why(made, tmp_path, capsys):
    run, rows = spoiled(load_run(made), "all")
    derived = derive(run)
    why = "no wall_ms was measured for head of verifier 'vhs': 3 of 3 rows tainted (thermal slowdown)."
    assert derived.unmeasured == [f"nano (1 steps): {why}"]
    assert ("nano", 1, "vhs") in derived.models["tflop"]
    assert "vhs" not in set(derived.budget_rows["verifier"])
    head = derived.costs.set_index(["verifier", "stage"]).loc[("vhs", "head")]
    assert pd.isna(head["median_ms"])
    assert pd.isna(head["peak_rss_gb"])
    assert (head["status"], head["tainted"], head["note"]) == ("tainted", 3, "thermal slowdown")
    write_page(derived, tmp_path / "report.html")
    page = html.unescape((tmp_path / "report.html").read_text())
    said = f"{rows} of {len(run.costs)} rows tainted (thermal slowdown)"
    assert why in page
    assert said in page
    show_summary(_summary(derived, run.path), Console(width=200))
    shown = capsys.readouterr().out
    assert f"left out: nano (1 steps): {why}" in shown
    assert f"costs left out: {said}" in shown


def test_a_run_with_no_sound_time_says_why(made):
    run = load_run(made)
    with pytest.raises(StoreError, match=r"no pipeline with a measured time: nano .* rows tainted"):
        derive(replace(run, costs=run.costs.assign(status="tainted")))


def _cost_points_of(derived):
    curves = derived.curves[derived.curves["verifier"].isin(derived.models_of("nano", 1))]
    return [points for _, _, points in _cost_points(overall(curves), derived, "nano", 1)]
