from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from harness.best_of_n import expected_accuracy
from harness.cost.cost_model import CostModel
from harness.derive import OVERALL, accuracy_curves
from harness.report.comparisons import headline, judged_yes_scores, paired_gain, time_saving
from harness.report.derived import derive
from harness.store import StoreError, load_run


def tables(folder):
    return {table.name: table for table in derive(load_run(folder)).tables}


def test_one_generator_has_no_table_of_others_and_no_drift(made):
    assert list(tables(made)) == ["budgets", "scoring"]


def test_no_scoring_takes_any_candidate_judged_yes(loaded):
    one = loaded.scores[loaded.scores["verifier"] == "vhs"]
    curve = accuracy_curves(loaded.candidates, judged_yes_scores(one), 10)
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
    assert rows.loc[rows["verifier"] == "vhs", "delta"].notna().all()


def test_a_gain_over_itself_is_exactly_zero(loaded):
    scores = pd.concat([loaded.scores, loaded.scores.assign(verifier=loaded.scores["verifier"] + "2")])
    gain = paired_gain(loaded.candidates, scores, ("nano", 1), {"vhs": 3, "vhs2": 3}, 20)
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


def test_time_saved_at_the_highest_accuracy_that_both_reach():
    models = {"vhs": CostModel(10, 1), "mllm-clip": CostModel(0, 10)}
    assert time_saving(curve(vhs=[60, 70, 80], clip=[60, 65, 70]), models) == (70, 30, 12)
    assert time_saving(curve(vhs=[60, 62, 64], clip=[60, 65, 70]), models) == (64, 20, 13)
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
