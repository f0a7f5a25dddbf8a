from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from vhsbench.harness.stats.curves import accuracy_curves, separation, winners
from vhsbench.harness.store.keys import CANDIDATE


def run(pool: int = 4, prompts: int = 6, seeds: int = 2):
    rng = np.random.default_rng(0)
    rows = [
        ("g", 1, p, s, i, ("colors", "counting")[p % 2], bool(rng.random() < 0.5), "")
        for p in range(prompts) for s in range(seeds) for i in range(pool)
    ]  # fmt: skip
    candidates = pd.DataFrame(rows, columns=[*CANDIDATE, "tag", "correct", "reason"])
    perfect = candidates[CANDIDATE].assign(verifier="perfect", score=candidates["correct"].astype(float))
    blind = candidates[CANDIDATE].assign(verifier="blind", score=0.0)
    return candidates, pd.concat([perfect, blind], ignore_index=True)


def test_a_perfect_verifier_is_the_oracle_and_a_blind_one_is_random():
    curves = accuracy_curves(*run()).set_index(["verifier", "tag", "n"])["accuracy"]
    for tag in ("colors", "counting", "overall", "geneval_overall"):
        for n in (1, 2, 4):
            assert curves["perfect", tag, n] == pytest.approx(curves["oracle", tag, n])
            assert curves["blind", tag, n] == pytest.approx(curves["random", tag, n])


def test_order_of_rows_does_not_matter():
    candidates, scores = run()
    mixed = accuracy_curves(candidates.sample(frac=1, random_state=1), scores.sample(frac=1, random_state=2))
    pd.testing.assert_frame_equal(accuracy_curves(candidates, scores), mixed)


def test_seeds_of_a_prompt_count_as_one_prompt():
    curves = accuracy_curves(*run())
    assert set(curves.loc[curves["tag"] == "overall", "n_prompts"]) == {6}


def test_a_missing_score_and_a_short_pool_are_refused():
    candidates, scores = run()
    with pytest.raises(ValueError, match="NaN"):
        accuracy_curves(candidates, scores.iloc[1:])
    with pytest.raises(ValueError, match="the run is not whole"):
        accuracy_curves(candidates.iloc[1:], scores)
    with pytest.raises(ValueError, match="no candidates"):
        accuracy_curves(candidates.iloc[:0], scores)


def test_winners_are_first_maxima_among_the_first_n():
    candidates, scores = run()
    best = winners(candidates, scores, 2)
    assert set(best["index"]) <= {0, 1}
    assert set(best.loc[best["verifier"] == "blind", "index"]) == {0}
    for _, row in best[best["verifier"] == "perfect"].iterrows():
        same = candidates.query(f"prompt_id == {row['prompt_id']} and seed == {row['seed']} and index < 2")
        assert row["correct"] == same["correct"].any()


def test_winners_need_no_unique_index():
    candidates, scores = run()
    scores.index = pd.Index(np.arange(len(scores)) % 7)
    assert len(winners(candidates, scores, 4)) == 2 * 6 * 2  # verifiers x prompts x seeds


def curves_and_calls(prompts: int):
    """The curves of 16 candidates of each prompt by 3 verifiers, and how many functions were called for them."""
    candidates, scores = run(pool=16, prompts=prompts, seeds=1)
    third = scores[scores["verifier"] == "blind"].assign(verifier="third")
    scores, calls = pd.concat([scores, third]), Counter()
    sys.setprofile(lambda _frame, event, _argument: calls.update([event]))
    try:
        curves = accuracy_curves(candidates, scores)
    finally:
        sys.setprofile(None)
    return curves, calls["call"] + calls["c_call"]


def test_a_full_run_takes_no_more_calls_than_a_small_one():
    curves_and_calls(6)  # imports
    (_, few), (curves, many) = curves_and_calls(24), curves_and_calls(240)
    assert many < 1.2 * few
    assert len(curves) == 5 * 4 * 16  # verifiers, oracle and random; two tasks, two overalls; N


def test_separation():
    table = separation(*run()).set_index("verifier")["auc"]
    assert table["perfect"] == 1.0
    assert table["blind"] == 0.5
