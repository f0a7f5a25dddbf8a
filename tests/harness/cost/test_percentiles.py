from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vhsbench.harness.cost.percentiles import drift, median_interval, percentile, sample_floor, summary


def test_the_sample_floors_are_load_gens():
    assert [sample_floor(p) for p in (90, 95, 99)] == [64, 130, 662]


@pytest.mark.parametrize("wanted", [90, 95, 99])
def test_a_percentile_is_refused_below_its_floor(wanted):
    floor = sample_floor(wanted)
    values = list(range(1, floor + 1))
    assert percentile(values[:-1], wanted) is None
    assert percentile(values, wanted) == pytest.approx(floor * wanted / 100, abs=1)


def test_the_medians_interval_is_the_textbooks():
    assert median_interval(range(1, 21)) == (6, 15)
    assert median_interval(range(1, 11)) == (2, 9)
    assert median_interval(range(1, 7)) == (1, 6)
    assert median_interval(range(1, 6)) is None


def test_the_interval_covers_the_median_of_a_skewed_time():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        low, high = median_interval(rng.exponential(size=25))
        covered += low <= np.log(2) <= high
    assert covered / 400 >= 0.93


@settings(max_examples=50)
@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=80))
def test_a_summary_is_ordered(values):
    s = summary(values)
    assert s["min_ms"] <= s["median_ms"] <= s["max_ms"]
    assert s["repeats"] == len(values)
    if s["low_ms"] is not None:
        assert s["min_ms"] <= s["low_ms"] <= s["median_ms"] <= s["high_ms"] <= s["max_ms"]
    assert (s["p90_ms"] is None) == (len(values) < 64)


def test_no_times_are_no_numbers():
    s = summary([float("nan")])
    assert s.pop("repeats") == 0
    assert set(s.values()) == {None}


def test_drift_compares_the_halves():
    assert drift([1.0] * 4 + [1.2] * 4) == pytest.approx(0.2)
    assert drift([1.0, 9.0]) == 0
