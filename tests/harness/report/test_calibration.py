from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from vhsbench.harness.report.calibration import reliability


def frames(p_yes, correct):
    n = len(p_yes)
    base = pd.DataFrame({"generator": "g", "steps": 1, "prompt_id": range(n), "seed": 0, "index": 0})
    candidates = base.assign(tag="colors", correct=correct, reason="")
    p = np.asarray(p_yes, dtype=float)
    return candidates, base.assign(verifier="v", p_yes=p, p_no=1 - p, score=p)


def test_a_calibrated_verifier_has_no_error():
    bins = reliability(*frames([0.25] * 4 + [0.75] * 4, [1, 0, 0, 0, 1, 1, 1, 0]))
    assert bins["ece"].iloc[0] == pytest.approx(0)
    assert bins["n"].sum() == 8


def test_the_error_is_the_weighted_gap():
    bins = reliability(*frames([0.95] * 3 + [0.05], [0, 0, 0, 0]))
    assert bins["ece"].iloc[0] == pytest.approx(0.75 * 0.95 + 0.25 * 0.05)
    assert bins.loc[bins["n"] > 0, "right"].tolist() == [0, 0]


def test_an_empty_bin_is_unknown_and_one_is_in_the_last_bin():
    bins = reliability(*frames([1.0], [1]))
    assert len(bins) == 10
    assert bins["n"].tolist() == [0] * 9 + [1]
    assert bins.loc[bins["n"] == 0, "right"].isna().all()


def test_scores_without_probabilities_are_left_out():
    candidates, scores = frames([0.5], [1])
    assert reliability(candidates, scores.assign(p_yes=np.nan)).empty


def test_the_interval_of_a_bin_is_by_prompt():
    """Sixteen candidates of a prompt, all alike, say as much as one: Wilson's over all of them was [0.63, 0.77]."""
    candidates, scores = frames([0.75] * 160, np.repeat([1] * 7 + [0] * 3, 16))
    prompts = np.repeat(np.arange(10), 16)
    indices = np.tile(np.arange(16), 10)
    bins = reliability(*(f.assign(prompt_id=prompts, index=indices) for f in (candidates, scores)))
    row = bins[bins["n"] > 0].iloc[0]
    exact = binomtest(7, 10).proportion_ci(0.95, method="exact")
    assert (row["share_low"], row["share_high"]) == pytest.approx((exact.low, exact.high))
