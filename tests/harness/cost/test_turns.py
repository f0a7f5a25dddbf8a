"""Typical times from turns: what slows all calls alike, or one turn of one of them, moves nothing."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.cost.turns import DRAWS, _quantiles, fit_turns, interval, range_of_n, ratio_interval

CALLS = {
    ("", "encode", 1): 10.0,
    ("vhs", "head", 1): 12.0,
    ("copy", "head", 1): 12.0,
    ("clip", "score", 1): 40.0,
}


def rows(factors, spoil=None, times=CALLS):
    """Each call in turns that are slower by `factors`; `spoil`: (key, turn) -> a factor of its own."""
    found = [
        (*key, turn, ms * factor * (spoil or {}).get((key, turn), 1.0))
        for key, ms in times.items()
        for turn, factor in enumerate(factors)
    ]
    return pd.DataFrame(found, columns=["verifier", "stage", "n", "visit", "wall_ms"])


def test_a_quiet_machine_gives_each_call_its_own_time():
    turns = fit_turns(rows([1.0] * 5))
    assert {key: turns.typical_ms(key) for key in CALLS} == pytest.approx(CALLS)
    assert np.allclose(turns.draws_ms(("vhs", "head", 1)), 12.0)


@given(st.lists(st.floats(1.0, 4.0), min_size=3, max_size=20))
@settings(max_examples=50, deadline=None)
def test_turns_that_others_slow_change_no_ratio(factors):
    turns = fit_turns(rows(factors))
    found = {key: turns.typical_ms(key) for key in CALLS}
    level = float(np.exp(np.quantile(np.log(factors), 0.25)))
    assert found == pytest.approx({key: ms * level for key, ms in CALLS.items()}, rel=1e-6)
    assert turns.typical_ms(("vhs", "head", 1)) == pytest.approx(turns.typical_ms(("copy", "head", 1)))


def test_a_slow_minute_of_one_call_does_not_make_it_slow():
    spoil = {(("copy", "head", 1), turn): 3.0 for turn in (2, 3, 4)}
    turns = fit_turns(rows([1.0] * 9, spoil))
    assert turns.typical_ms(("copy", "head", 1)) == pytest.approx(12.0)


def test_pipelines_that_read_one_block_share_its_head_and_tail():
    times = {
        ("vhs", "head", 1): 12.0, ("copy", "head", 1): 14.0, ("early", "head", 1): 6.0,
        ("vhs", "score", 1): 20.0, ("copy", "score", 1): 22.0,
    }  # fmt: skip
    found = rows([1.0] * 5, times=times)
    blocks = {"vhs": "6", "copy": "6", "early": "3"}
    found["block"] = found["verifier"].map(blocks).where(found["stage"] == "head")
    turns = fit_turns(found)
    ms = {key: turns.typical_ms(key) for key in times}
    assert ms["vhs", "head", 1] == ms["copy", "head", 1] == pytest.approx(math.sqrt(12 * 14))
    assert ms["early", "head", 1] == pytest.approx(6.0)
    assert (ms["vhs", "score", 1], ms["copy", "score", 1]) == pytest.approx((20.0, 22.0))
    assert np.array_equal(turns.draws_ms(("vhs", "head", 1)), turns.draws_ms(("copy", "head", 1)))
    before = fit_turns(found.assign(block=None))  # rows of a version that kept no block
    assert before.typical_ms(("copy", "head", 1)) == pytest.approx(14.0)


def test_an_outlier_within_a_turn_does_not_count():
    slow = rows([1.0] * 4).assign(wall_ms=lambda r: 5 * r["wall_ms"])
    turns = fit_turns(pd.concat([rows([1.0] * 4), rows([1.0] * 4), slow]))
    assert turns.typical_ms(("clip", "score", 1)) == pytest.approx(40.0)


def test_times_without_turns_or_of_too_few_have_no_fit():
    assert fit_turns(rows([1.0, 1.0])) is None
    assert fit_turns(rows([1.0] * 5).drop(columns="visit")) is None  # of an earlier version
    assert fit_turns(rows([1.0] * 5).assign(visit=math.nan)) is None


def test_what_turns_vary_by_is_in_the_interval_and_cancels_in_a_ratio():
    chance = np.random.default_rng(0)
    turns = fit_turns(rows(np.exp(chance.normal(0, 0.2, 15)), times=CALLS))
    draws = {key: turns.draws_ms(key) for key in CALLS}
    one, other = draws["vhs", "head", 1], draws["copy", "head", 1]
    low, high = np.quantile(one, [0.025, 0.975])
    typical = turns.typical_ms(("vhs", "head", 1))
    assert low < typical < high
    assert 0.1 < high / low - 1 < 0.6
    assert np.allclose(one, other)  # the same turns for both
    ms = {verifier: CostModel(5.0, 12.0, np.stack([np.full(DRAWS, 5.0), one], 1)) for verifier in "ab"}
    assert ratio_interval(ms["a"], ms["b"]) == pytest.approx((1.0, 1.0))


def test_intervals_hold_as_often_as_they_say():
    """200 simulated runs of 15 turns: a stage's true time, in a turn that nothing slows, is known here."""
    chance, held = np.random.default_rng(1), 0
    for _ in range(200):
        frame = rows([1.0] * 15)
        frame["wall_ms"] *= np.exp(chance.normal(0, 0.05, len(frame)))
        turns = fit_turns(frame)
        drawn = turns.draws_ms(("vhs", "head", 1)) / turns.draws_ms(("copy", "head", 1))
        low, high = np.quantile(drawn, [0.025, 0.975])
        held += low <= 1.0 <= high
    assert held >= 180  # 95% of 200, less three standard errors


def test_n_has_a_range_and_a_time_an_interval():
    each = np.linspace(9.0, 11.0, DRAWS)
    model = CostModel(10.0, 10.0, np.stack([np.full(DRAWS, 10.0), each], 1))
    assert range_of_n(model, 100.0, 0.05) == (8, 10)  # (105 - 10) / 11 and / 9
    assert interval(model, 2) == pytest.approx((10 + 2 * 9.05, 10 + 2 * 10.95), rel=1e-3)
    assert range_of_n(model, 5.0, 0.05) == (0, 0)
    assert range_of_n(CostModel(10.0, 10.0), 100.0, 0.05) is None
    assert interval(CostModel(10.0, 10.0), 2) is None


@given(
    st.lists(st.floats(-5, 5), min_size=1, max_size=12),
    st.sampled_from([0.25, 0.5]),
    st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_a_weighted_quantile_is_that_of_the_repeated_values(values, share, seed):
    counts = np.random.default_rng(seed).multinomial(
        len(values), np.full(len(values), 1 / len(values)), size=3
    )
    expected = [np.quantile(np.repeat(values, row), share) for row in counts]
    assert _quantiles(np.array(values), counts, share) == pytest.approx(expected, abs=1e-9)
