from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.cost.budgets import (
    UnmeasuredError,
    budget_table,
    check,
    default_budgets,
    fit,
    fit_memory,
    is_measured,
)
from vhsbench.harness.cost.cost_model import TOLERANCE, CostModel, parse_budget

# A100 timings read off the published curve and N (ms)
PUBLISHED = {
    "vhs": (CostModel(163, 102), [4, 9, 15]),
    "mllm-clip": (CostModel(0, 277), [2, 4, 6]),
    "mllm-ae": (CostModel(137.5, 137.5), [3, 7, 11]),
}


@pytest.mark.parametrize("verifier", PUBLISHED)
def test_the_published_n(verifier):
    model, expected = PUBLISHED[verifier]
    assert [model.largest_n(b, TOLERANCE) for b in (550, 1100, 1650)] == expected


@given(st.floats(0, 1e3), st.floats(0.1, 1e3), st.floats(1, 1e5))
def test_the_largest_n_fits_and_the_next_does_not(fixed, per_candidate, budget):
    model = CostModel(fixed, per_candidate)
    n = model.largest_n(budget, 0.05)
    limit = 1.05 * budget
    if n is None:
        assert model.predict(1) > limit * (1 - 1e-9)
    else:
        assert model.predict(n) <= limit + 1e-6 * per_candidate + 1e-9 * limit
        assert model.predict(n + 1) > limit * (1 - 1e-9)


def test_a_budget_below_one_candidate_is_no_n():
    assert CostModel(163, 102).largest_n(100, TOLERANCE) is None


@pytest.mark.parametrize(("per_candidate", "budget"), [(0.0, 1.0), (1.0, math.nan), (math.nan, 1.0)])
def test_no_largest_n_is_said(per_candidate, budget):
    with pytest.raises(ValueError, match="no largest N"):
        CostModel(1, per_candidate).largest_n(budget, TOLERANCE)


def test_default_budgets_are_readable():
    assert default_budgets(PUBLISHED["mllm-clip"][0], TOLERANCE) == [550, 1100, 1700]


@given(st.floats(0.01, 500), st.floats(0, 5000), st.sampled_from([0.0, 0.05, 0.3]))
def test_default_budgets_give_exactly_2_4_6(per_candidate, fixed, tolerance):
    model = CostModel(fixed, per_candidate)
    budgets = default_budgets(model, tolerance)
    assert [model.largest_n(b, tolerance) for b in budgets] == [2, 4, 6]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("550ms", (550, "ms")), ("0.55 s", (550, "ms")), ("3TFLOP", (3, "TFLOP")),
        ("40gflop", (0.04, "TFLOP")), ("24GB", (24, "GB")), ("40J", (40, "J")), (".5s", (500, "ms")),
    ],
)  # fmt: skip
def test_budgets_as_text(text, expected):
    value, unit = parse_budget(text)
    assert (pytest.approx(value), unit) == expected


@pytest.mark.parametrize("text", ["", "550", "ms", "0ms", "-1ms", "nan ms", "5 parsecs", "1e999s"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(ValueError, match="is no budget"):
        parse_budget(text)


def costs() -> pd.DataFrame:
    rows = [
        ("vhs", stage, 1, r, wall + noise)
        for stage, wall in {"encode": 5, "noise": 1, "head": 6, "tail": 10, "decode": 14, "score": 7}.items()
        for r, noise in enumerate((-0.5, 0.0, 4.0))
    ]
    rows += [("vhs", "end_to_end", n, 0, 29 + 14 * n) for n in (1, 2)]
    frame = pd.DataFrame(rows, columns=["verifier", "stage", "n", "repeat", "wall_ms"])
    return frame.assign(batch=1, generator="nano", steps=1, variant="", status="ok", note="")


def test_the_fit_is_the_sum_of_the_stages_medians():
    assert fit(costs(), "vhs", "hidden") == CostModel(29, 14)


@given(st.lists(st.tuples(st.sampled_from(["encode", "head", "score", "end_to_end"]), st.floats(0.1, 1e6))))
@settings(max_examples=30)
def test_tainted_rows_move_nothing(spoiled):
    clean = costs().assign(peak_vram_gb=3.0)
    more = [
        clean.iloc[:1].assign(
            stage=stage, wall_ms=ms, peak_vram_gb=ms, status="tainted", note="thermal slowdown"
        )
        for stage, ms in spoiled
    ]
    mixed = pd.concat([clean, *more])
    assert fit(mixed, "vhs", "hidden") == fit(clean, "vhs", "hidden") == CostModel(29, 14)
    pd.testing.assert_frame_equal(
        check(mixed, "vhs", CostModel(29, 14)), check(clean, "vhs", CostModel(29, 14))
    )
    assert fit_memory(mixed, "vhs", "peak_vram_gb") == fit_memory(clean, "vhs", "peak_vram_gb")


def test_a_stage_with_tainted_rows_alone_is_unknown_and_says_why():
    rows = costs().assign(tflop=1.0)
    rows.loc[rows["stage"] == "head", ["status", "note"]] = ["tainted", "thermal slowdown"]
    assert not is_measured(rows, "vhs", "hidden")
    said = r"no wall_ms was measured for head of verifier 'vhs': 3 of 3 rows tainted \(thermal slowdown\)\."
    with pytest.raises(UnmeasuredError, match=said):
        fit(rows, "vhs", "hidden")
    assert fit(rows, "vhs", "hidden", "tflop") == CostModel(3, 3)  # counted, not measured
    # energy was never known: tainted rows are not why
    mixed = pd.concat([costs(), costs().assign(status="tainted")]).assign(energy_j=math.nan)
    with pytest.raises(UnmeasuredError, match=r"tail of verifier 'vhs'\.$"):
        fit(mixed, "vhs", "hidden", "energy_j")
    whole = rows["stage"] == "end_to_end"
    rows.loc[whole & (rows["n"] == 2), "status"] = "tainted"
    checked = check(rows, "vhs", CostModel(29, 14)).set_index("n")
    assert checked.loc[1, "error_percent"] == pytest.approx(0)
    assert math.isnan(checked.loc[2, "measured_ms"])
    assert math.isnan(checked.loc[2, "error_percent"])


def test_the_check_compares_with_whole_runs():
    checked = check(costs(), "vhs", CostModel(29, 14))
    assert checked["n"].tolist() == [1, 2]
    assert np.allclose(checked["error_percent"], 0)


def test_other_variants_and_batched_rows_stay_out_of_the_fit():
    other = costs().assign(variant="torch-compile", wall_ms=1.0)
    batched = costs().assign(variant="batched", batch=2, wall_ms=2.0)
    mixed = pd.concat([costs(), other, batched])
    assert fit(mixed, "vhs", "hidden") == CostModel(29, 14)
    assert fit(mixed, "vhs", "hidden", variant="torch-compile") == CostModel(3, 3)


def test_a_cell_out_of_memory_is_not_measured():
    rows = costs().assign(status="ok")
    assert is_measured(rows, "vhs", "hidden")
    rows.loc[rows["stage"] == "tail", ["wall_ms", "status"]] = [math.nan, "oom"]
    assert not is_measured(rows, "vhs", "hidden")
    assert not is_measured(rows, "mllm-ae", "latents")


@settings(max_examples=30)
@given(st.lists(st.floats(0.1, 80), min_size=1, max_size=6))
def test_the_memory_line_is_above_every_measured_run(peaks):
    rows = costs().query("stage == 'end_to_end'").iloc[[0] * len(peaks)]
    rows = rows.assign(n=[2**i for i in range(len(peaks))], peak_vram_gb=peaks)
    model = fit_memory(rows, "vhs", "peak_vram_gb")
    assert model.per_candidate >= 0
    assert all(model.predict(2**i) >= gb - 1e-6 for i, gb in enumerate(peaks))


@pytest.mark.parametrize(("growth", "grows"), [(0.0, False), (1e-5, False), (3.44e-3, True)])
def test_what_moves_by_a_megabyte_does_not_grow(growth, grows):
    rows = costs().query("stage == 'end_to_end'").iloc[[0] * 4]
    rows = rows.assign(n=[1, 2, 4, 4], peak_vram_gb=[12 + growth * n for n in (1, 2, 4, 4)])
    assert (fit_memory(rows, "vhs", "peak_vram_gb").per_candidate > 0) == grows


@given(st.floats(0, 1e3), st.floats(0.1, 1e3), st.floats(1, 1e5), st.floats(1, 1e5))
def test_a_larger_budget_never_affords_less(fixed, per_candidate, one, other):
    model = CostModel(fixed, per_candidate)
    small, large = (model.largest_n(b, TOLERANCE) or 0 for b in sorted((one, other)))
    assert small <= large


def test_a_pipeline_without_a_model_has_an_empty_row():
    curves = pd.DataFrame(
        [("nano", 1, "vhs", t, 1, 50.0, 49.0, 60.0, 9) for t in [*TAGS, "overall", "geneval_overall"]],
        columns=["generator", "steps", "verifier", "tag", "n", "accuracy", "low", "high", "n_prompts"],
    )
    row = budget_table(curves, {("nano", 1, "vhs"): None}, [100.0], TOLERANCE).iloc[0]
    assert pd.isna(row["best_of_n"])
    assert pd.isna(row["time_ms"])
    assert pd.isna(row["overall"])


def test_an_unmeasured_stage_is_named():
    with pytest.raises(ValueError, match="wall_ms was measured for head of verifier 'vhs'"):
        fit(costs().query("stage != 'head'"), "vhs", "hidden")


def test_costs_of_two_generators_are_not_mixed():
    both = pd.concat([costs(), costs().assign(generator="other")])
    with pytest.raises(ValueError, match="more than one generator"):
        fit(both, "vhs", "hidden")


def test_the_table_leaves_unknown_empty_and_marks_the_pools_end():
    tags = [*TAGS, "overall", "geneval_overall"]
    curves = pd.DataFrame(
        [
            ("nano", 1, v, t, n, 50 + n, 49.0, 60.0, 9)
            for v in ("vhs", "random")
            for t in tags
            for n in (1, 2)
        ],
        columns=["generator", "steps", "verifier", "tag", "n", "accuracy", "low", "high", "n_prompts"],
    )
    models = {("nano", 1, "none"): CostModel(0, 20), ("nano", 1, "vhs"): CostModel(30, 10)}
    table = budget_table(curves, models, [25.0, 500.0], TOLERANCE).set_index(["budget_ms", "verifier"])
    assert pd.isna(table.loc[(25.0, "vhs"), "best_of_n"])
    assert math.isnan(table.loc[(25.0, "vhs"), "overall"])
    assert table.loc[(25.0, "none"), "best_of_n"] == 1
    assert table.loc[(500.0, "vhs"), "best_of_n"] == 2
    assert table.loc[(500.0, "vhs"), "pool_limited"]
    assert table.loc[(500.0, "vhs"), "overall"] == 52
    with pytest.raises(ValueError, match=r"no accuracy of nano .1 steps. with 'absent'"):
        budget_table(curves, {("nano", 1, "absent"): CostModel(0, 1)}, [10.0], TOLERANCE)
