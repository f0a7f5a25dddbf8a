"""Cascades and stop rules against enumeration of every draw, in exact fractions."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vhsbench.harness.stats.cascade import cascade_accuracy
from vhsbench.harness.stats.expected import expected_accuracy
from vhsbench.harness.stats.stop_rule import StopRule

SCORES = st.integers(0, 3)  # few values: ties are the rule
POOLS = st.integers(1, 5).flatmap(
    lambda m: st.tuples(*(st.lists(s, min_size=m, max_size=m) for s in (SCORES, SCORES, st.booleans())))
)


def mean(values):
    values = list(values)
    return sum(values, Fraction(0)) / len(values)


def best(members, scores, correct):
    """The chance that the best is right, ties shared."""
    top = max(scores[i] for i in members)
    return mean(Fraction(correct[i]) for i in members if scores[i] == top)


def keep(members, scores, k):
    """Every way to keep the best k, as likely as each other."""
    cut = sorted((scores[i] for i in members), reverse=True)[k - 1]
    sure = [i for i in members if scores[i] > cut]
    return [
        (*sure, *some)
        for some in itertools.combinations([i for i in members if scores[i] == cut], k - len(sure))
    ]


@settings(max_examples=60, deadline=None)
@given(POOLS)
def test_a_cascade_is_the_mean_over_all_draws(pool):
    a, b, correct = pool
    size = len(a)
    found = cascade_accuracy([a], [b], [correct])[0]
    for n in range(1, size + 1):
        draws = list(itertools.combinations(range(size), n))
        for k in range(1, n + 1):
            exact = mean(mean(best(kept, b, correct) for kept in keep(draw, a, k)) for draw in draws)
            assert found[n - 1, k - 1] == pytest.approx(float(exact), abs=1e-9)
        assert np.isnan(found[n - 1, n:]).all()


@settings(max_examples=60, deadline=None)
@given(POOLS, st.integers(0, 4))
def test_a_stop_rule_is_the_mean_over_all_orders(pool, tau):
    scores, _, correct = pool
    size = len(scores)
    rule = StopRule([scores], [correct])
    for n in range(1, size + 1):
        right, lengths = [], []
        for order in itertools.permutations(range(size), n):
            passing = next((i for i, candidate in enumerate(order) if scores[candidate] >= tau), None)
            lengths.append(n if passing is None else passing + 1)
            right.append(
                best(order, scores, correct) if passing is None else Fraction(correct[order[passing]])
            )
        found = rule.stop(tau, n)
        assert found.accuracy[0] == pytest.approx(float(mean(right)), abs=1e-9)
        assert found.mean_draws[0] == pytest.approx(np.mean(lengths))
        assert found.draws[0] == pytest.approx(np.bincount(lengths, minlength=n + 1)[1:] / len(lengths))


def test_the_ends_of_a_cascade_are_best_of_n():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 7, 64))
    correct = rng.random((7, 64)) < 0.5
    found = cascade_accuracy(a, b, correct)
    diagonal = np.stack([found[:, n, n] for n in range(64)], 1)  # K = N: A chooses nothing
    assert diagonal == pytest.approx(expected_accuracy(b, correct), abs=1e-9)
    assert found[:, :, 0] == pytest.approx(
        expected_accuracy(a, correct), abs=1e-9
    )  # K = 1: B chooses nothing
    assert cascade_accuracy(a, a, correct)[:, 40, 5] == pytest.approx(
        expected_accuracy(a, correct)[:, 40], abs=1e-9
    )


def test_a_threshold_that_none_or_all_pass():
    rng = np.random.default_rng(1)
    scores, correct = rng.normal(size=(5, 16)), rng.random((5, 16)) < 0.5
    rule = StopRule(scores, correct)
    assert rule.stop(np.inf, 8).accuracy == pytest.approx(expected_accuracy(scores, correct)[:, 7])
    assert rule.stop(np.inf, 8).mean_draws == pytest.approx(8)
    assert rule.stop(-np.inf, 8).accuracy == pytest.approx(correct.mean(1))
    assert rule.stop(-np.inf, 8).mean_draws == pytest.approx(1)
