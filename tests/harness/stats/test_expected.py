from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vhsbench.harness.stats.expected import (
    chances,
    expected_accuracy,
    largest_difference,
    oracle,
    random_choice,
    win_probabilities,
)


@st.composite
def pools(draw):
    m = draw(st.integers(1, 7))
    scores = draw(arrays(float, m, elements=st.sampled_from([-1.0, -0.5, 0.5, 1.0])))
    return scores, draw(arrays(bool, m))


def by_enumeration(scores, correct, n):
    """Every N-subset in turn; the winner is a random one of the best-scored."""
    shares = []
    for subset in itertools.combinations(range(len(scores)), n):
        best = max(scores[i] for i in subset)
        shares.append(np.mean([correct[i] for i in subset if scores[i] == best]))
    return np.mean(shares)


@given(pools())
def test_equals_enumeration_of_all_subsets(pool):
    scores, correct = pool
    expected = [by_enumeration(scores, correct, n + 1) for n in range(len(scores))]
    assert np.allclose(expected_accuracy(scores, correct), expected)


@given(pools(), st.data())
def test_graded_values_equal_enumeration_too(pool, data):
    """A judge's values, the scores themselves, and each candidate's chance to win."""
    scores, _ = pool
    values = data.draw(arrays(float, len(scores), elements=st.floats(-3, 30)))
    for graded in (values, scores):
        expected = [by_enumeration(scores, graded, n + 1) for n in range(len(scores))]
        np.testing.assert_allclose(expected_accuracy(scores, graded), expected, atol=1e-9)
    np.testing.assert_allclose(values @ chances(scores), expected_accuracy(scores, values), atol=1e-9)
    np.testing.assert_allclose(chances(scores).sum(0), 1)
    assert np.all(np.diff(expected_accuracy(scores, scores)) >= -1e-12)  # the own score never falls


@given(pools())
def test_bounds(pool):
    scores, correct = pool
    ours = expected_accuracy(scores, correct)
    assert np.isclose(ours[0], correct.mean())
    assert np.all(ours <= oracle(correct) + 1e-12)
    assert np.all(np.diff(oracle(correct)) >= -1e-12)
    assert np.allclose(random_choice(correct), correct.mean())


def test_a_batch_of_pools_is_each_pool():
    rng = np.random.default_rng(0)
    scores, correct = rng.integers(0, 3, (20, 9)).astype(float), rng.integers(0, 2, (20, 9))
    together = expected_accuracy(scores, correct)
    for row, (s, c) in enumerate(zip(scores, correct, strict=True)):
        assert np.allclose(together[row], expected_accuracy(s, c))


def test_large_pools_do_not_overflow():
    table = win_probabilities(1024)
    assert np.allclose(table.sum(axis=0), 1)
    assert np.all((table >= 0) & (table <= 1))


@given(pools())
def test_the_whole_pool_is_its_argmax_with_ties_shared(pool):
    scores, correct = pool
    assert np.isclose(expected_accuracy(scores, correct)[-1], correct[scores == scores.max()].mean())


def test_a_missing_score_or_verdict_is_refused():
    with pytest.raises(ValueError, match=r"score is not a number .NaN"):
        expected_accuracy([0.5, float("nan")], [True, False])
    with pytest.raises(ValueError, match=r"verdict is not a number .NaN"):
        expected_accuracy([0.5, 0.1], [1.0, float("nan")])


@pytest.mark.parametrize("scores", [[], [[[0.5]]]])
def test_what_is_no_pool_is_refused(scores):
    with pytest.raises(ValueError, match="the same shape and not be empty"):
        expected_accuracy(scores, scores)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_ranks_nothing(value):
    with pytest.raises(ValueError, match=r"score is not a number .NaN. or infinite"):
        expected_accuracy([0.5, value], [True, False])


@pytest.mark.parametrize(("n_a", "n_b"), [(2, 2), (3, 3), (4, 4), (1, 4), (3, 2)])
def test_the_largest_difference_is_reached_and_never_passed(n_a, n_b):
    """Over all verdicts of four candidates and all orders of scores."""
    orders = np.array(list(itertools.permutations(range(4))), dtype=float)
    scores = np.tile(orders, (16, 1))
    correct = np.repeat(list(itertools.product((0, 1), repeat=4)), len(orders), axis=0)
    accuracy = expected_accuracy(scores, correct).reshape(16, len(orders), 4)
    apart = accuracy[:, :, None, n_b - 1] - accuracy[:, None, :, n_a - 1]
    assert largest_difference(orders, orders[::-1], n_a, n_b) == pytest.approx(np.abs(apart).max())


def test_the_same_picks_have_no_difference():
    scores = np.array([[0.3, 0.1, 0.2]])
    assert largest_difference(scores, -scores, 1, 1) == 0  # any candidate
    assert largest_difference(scores, scores.copy(), 2, 2) == 0
    assert largest_difference(scores, scores, 2, 3) > 0
    assert largest_difference(scores, -scores, 3, 3) == 1
