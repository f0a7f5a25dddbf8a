from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from vhsbench.harness.stats.intervals import (
    auc,
    auc_interval,
    brackets,
    clustered_mean,
    missed_share,
    paired_difference,
    pooled_share,
)

share = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1, width=32))
shares = st.lists(share, min_size=2, max_size=30)
with_tasks = st.lists(st.tuples(share, st.sampled_from("abc")), min_size=2, max_size=30)


def ends(found):
    """[2, K]."""
    return np.array([found.low, found.high])


def test_prompt_and_task_means_by_hand():
    values, tasks = np.array([[1.0], [0.0], [0.0], [0.0]]), np.array(["a", "b", "b", "b"])
    assert clustered_mean(values, tasks=tasks).mean[0] == 0.25
    assert clustered_mean(values, tasks=tasks, by_task=True).mean[0] == 0.5


def test_what_is_rounded_to_zero_has_no_sign():
    assert brackets(-0.04, 0.04) == " [0.0, 0.0]"
    assert brackets(-0.004, -0.006, "+.2f") == " [+0.00, -0.01]"


def test_none_and_all_of_twenty_are_not_certain():
    """0.1684 = 1 - 0.025^(1/20), the exact limit of Clopper and Pearson; a bootstrap gives [0, 0]."""
    none, every = clustered_mean([0] * 20), clustered_mean([1] * 20)
    assert (none.mean[0], none.low[0], every.high[0]) == (0, 0, 1)
    assert none.high[0] == pytest.approx(1 - 0.025 ** (1 / 20), abs=1e-9)
    assert none.high[0] == pytest.approx(0.1684, abs=5e-5)
    assert every.low[0] == pytest.approx(1 - none.high[0], abs=1e-12)
    assert missed_share(20) == pytest.approx(none.high[0])
    # in tasks too: each at 0 leaves nothing to tell them apart by
    tasks = np.repeat(list("abcd"), 5)
    for by_task in (False, True):
        assert clustered_mean([0] * 20, tasks=tasks, by_task=by_task).high == pytest.approx(none.high)


@pytest.mark.parametrize("n", [2, 7, 60, 553])
def test_right_or_wrong_prompts_have_the_exact_interval(n):
    for right in {0, 1, n // 3, n // 2, n - 1, n}:
        found = clustered_mean([1] * right + [0] * (n - right))
        exact = binomtest(right, n).proportion_ci(0.95, method="exact")
        assert (found.low[0], found.high[0]) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_equal_values_between_are_not_certain():
    """An unseen prompt's weight is Beta(1, n): 0.5 (1 - w) and 0.5 + 0.5 w."""
    found = clustered_mean([0.5] * 8)
    assert found.low[0] == pytest.approx(0.5 * 0.025 ** (1 / 8))
    assert found.high[0] == pytest.approx(1 - 0.5 * 0.025 ** (1 / 8))


@given(with_tasks, st.booleans())
def test_an_interval_holds_its_mean_and_lies_between_0_and_1(rows, by_task):
    values, tasks = zip(*rows, strict=True)
    found = clustered_mean(values, tasks=tasks, by_task=by_task)
    assert 0 <= found.low[0] <= found.mean[0] <= found.high[0] <= 1 + 1e-12
    assert found.high[0] - found.low[0] > 0.05  # never certain of thirty prompts


@given(with_tasks, st.booleans())
def test_right_and_wrong_are_mirrored(rows, by_task):
    values, tasks = zip(*rows, strict=True)
    found, mirrored = (
        clustered_mean(v, tasks=tasks, by_task=by_task) for v in (values, 1 - np.array(values))
    )
    assert ends(mirrored) == pytest.approx(1 - ends(found)[::-1], abs=1e-6)


@given(with_tasks, st.booleans(), st.lists(st.floats(0.5, 0.999), min_size=2, max_size=2, unique=True))
def test_more_confidence_is_wider(rows, by_task, levels):
    values, tasks = zip(*rows, strict=True)
    less, more = (
        clustered_mean(values, tasks=tasks, by_task=by_task, level=level) for level in sorted(levels)
    )
    assert more.low[0] <= less.low[0] + 1e-9
    assert more.high[0] >= less.high[0] - 1e-9


@given(with_tasks, st.booleans(), st.integers(2, 4))
def test_fewer_prompts_are_wider(rows, by_task, times):
    values, tasks = zip(*rows, strict=True)
    few = clustered_mean(values, tasks=tasks, by_task=by_task)
    many = clustered_mean(values * times, tasks=tasks * times, by_task=by_task)
    assert many.mean == pytest.approx(few.mean)
    assert few.low[0] <= many.low[0] + 1e-9
    assert few.high[0] >= many.high[0] - 1e-9


def simulated(world, sizes, trials=2000, seed=0):
    """[P, trials] of prompts drawn from each task's values."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.choice(w, (n, trials)) for w, n in zip(world, sizes, strict=True)])


def coverage(found, truth):
    return float(((found.low <= truth + 1e-9) & (truth - 1e-9 <= found.high)).mean())


@pytest.mark.parametrize("prompts", [2, 4, 8])
def test_few_prompts_are_covered(prompts):
    """Shares of 16 at a within-prompt correlation of 0.3: the percentile bootstrap covered 69 and 86%."""
    rng = np.random.default_rng(1)
    world = rng.binomial(16, rng.beta(0.9 * 7 / 3, 0.1 * 7 / 3, 5000)) / 16
    found = clustered_mean(simulated([world], [prompts]))
    assert coverage(found, world.mean()) >= 0.95


def test_few_prompts_of_six_tasks_are_covered():
    """The percentile bootstrap covered 85% of 12 prompts in 6 tasks."""
    rng = np.random.default_rng(2)
    world = [rng.binomial(16, rate, 5000) / 16 for rate in (0.95, 0.9, 0.8, 0.7, 0.5, 0.3)]
    for each in (1, 2, 4, 10):
        tasks = np.repeat(np.arange(6), each)
        found = clustered_mean(simulated(world, [each] * 6), tasks=tasks)
        assert coverage(found, np.mean([w.mean() for w in world])) >= 0.95


@pytest.mark.parametrize("n", [2, 4, 12, 60])
def test_the_lowest_coverage_of_prompts_with_two_values_is_95_percent(n):
    """Not drawn: the probability itself, over populations whose truth lies just beyond an end."""
    k = np.arange(n + 1)
    for a, b in ((0.0, 1.0), (0.0, 0.85), (0.3, 1.0), (0.5, 0.55), (0.9, 1.0), (0.0, 0.05)):
        found = clustered_mean(np.where(np.arange(n)[:, None] < k, b, a))
        beside = (np.concatenate([found.low - 1e-9, found.high + 1e-9]) - a) / (b - a)
        p = np.clip(np.concatenate([beside, np.linspace(0, 1, 21)]), 0, 1)[:, None]
        covered = (found.low <= a + (b - a) * p) & (a + (b - a) * p <= found.high)
        assert (covered * binom.pmf(k, n, p)).sum(1).min() >= 0.95 - 1e-4


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    values = (rng.random((80, 300)) < 0.7).astype(float)
    assert 0.90 <= coverage(clustered_mean(values), 0.7) <= 0.985


def test_many_prompts_are_as_narrow_as_the_spread_within_tasks_allows():
    """No wider than a tenth more than the normal interval, though tasks differ by far more than their prompts."""
    rng = np.random.default_rng(0)
    tasks = np.repeat(np.arange(6), 100)
    values = np.clip(np.linspace(0.2, 0.9, 6)[tasks] + rng.normal(0, 0.1, 600), 0, 1)
    within = np.mean([values[tasks == t].var(ddof=1) for t in range(6)])
    found = clustered_mean(values, tasks=tasks)
    assert 1 < (found.high[0] - found.low[0]) / (2 * 1.96 * np.sqrt(within / 600)) < 1.2
    assert found.high[0] - found.low[0] < 0.5 * np.ptp(ends(clustered_mean(values)))


def test_seeds_of_a_prompt_are_averaged_first():
    prompts = [7, 3, 7, 3, 7]
    found = clustered_mean([1, 0, 0, 0, 1], prompts=prompts)
    assert found.n == 2
    assert found.mean[0] == pytest.approx((2 / 3 + 0) / 2)
    alone = clustered_mean([0, 2 / 3])  # prompts 3 and 7
    assert found.low[0] == pytest.approx(alone.low[0])
    assert found.high[0] == pytest.approx(alone.high[0])


def test_both_overalls_and_many_columns():
    tasks = ["a", "b", "b", "b"]
    values = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    assert clustered_mean(values, tasks=tasks).mean.tolist() == [0.25, 0.5]
    by_task = clustered_mean(values, tasks=tasks, by_task=True)
    assert np.allclose(by_task.mean, [0.5, 1 / 3])
    assert np.all(by_task.low <= by_task.mean)
    assert np.all(by_task.mean <= by_task.high)
    for k in range(2):
        alone = clustered_mean(values[:, k], tasks=tasks, by_task=True)
        assert (alone.low[0], alone.high[0]) == pytest.approx((by_task.low[k], by_task.high[k]))


def test_percent_is_a_hundred_times_the_share():
    rng = np.random.default_rng(0)
    a, b, tasks = rng.random(30), rng.random(30), np.arange(30) % 3
    for x, y in (
        (clustered_mean(a, tasks=tasks), clustered_mean(100 * a, tasks=tasks, most=100)),
        (paired_difference(a, b), paired_difference(100 * a, 100 * b, largest=100)),
    ):
        assert (100 * x.low[0], 100 * x.high[0]) == pytest.approx((y.low[0], y.high[0]))


def test_a_pair_is_narrower_than_its_two_intervals():
    rng = np.random.default_rng(0)
    hard = 0.85 * rng.random(100)
    a, b = hard + 0.1 + 0.01 * rng.random(100), hard
    difference, single = paired_difference(a, b), clustered_mean(a)
    assert difference.mean[0] == pytest.approx(a.mean() - b.mean())
    assert difference.high - difference.low < 0.1 * (single.high - single.low)
    assert difference.low[0] > 0
    with pytest.raises(ValueError, match="same rows"):
        paired_difference([1], [1, 2])


@given(st.lists(st.tuples(share, share), min_size=2, max_size=30), st.integers(1, 3))
def test_a_pair_is_mirrored_and_holds_its_mean(pairs, tasks):
    a, b = np.array(pairs).T
    labels = np.arange(len(a)) % tasks
    found, swapped = paired_difference(a, b, tasks=labels), paired_difference(b, a, tasks=labels)
    assert -1 <= found.low[0] <= found.mean[0] + 1e-9 <= found.high[0] + 2e-9 <= 1 + 3e-9
    assert ends(swapped) == pytest.approx(-ends(found)[::-1], abs=1e-6)
    assert found.high[0] - found.low[0] > 1e-4
    wider = paired_difference(a, b, tasks=labels, level=0.99)
    assert wider.low[0] <= found.low[0] + 1e-9
    assert wider.high[0] >= found.high[0] - 1e-9


def test_no_difference_seen_is_not_none():
    """20 prompts of which none differs may hold none of a kind that is 16.8% of all; nothing may differ by 0."""
    found = paired_difference([1] * 20, [1] * 20)
    assert (found.low[0], found.high[0]) == pytest.approx((-0.1684, 0.1684), abs=5e-5)
    half = paired_difference([1] * 20, [1] * 20, largest=0.5)
    assert half.low[0] == pytest.approx(found.low[0] / 2)
    none = paired_difference(np.ones((20, 2)), np.ones((20, 2)), largest=[0, 1])
    assert (none.low[0], none.high[0]) == (0, 0)
    assert none.low[1] == found.low[0]


@pytest.mark.parametrize("prompts", [4, 24, 198])
def test_differences_on_few_prompts_are_covered(prompts):
    """One verifier loses 1% of prompts, and wins 1% of others: the bootstrap mostly saw neither."""
    world = np.repeat([-1.0, 0.0, 1.0], [100, 9750, 150])
    values = simulated([world], [prompts])
    found = paired_difference(values, np.zeros_like(values))
    assert coverage(found, world.mean()) >= 0.95


def test_differences_of_all_prompts_are_covered_and_narrow():
    world = np.random.default_rng(0).normal(0.02, 0.08, 5000)
    values = simulated([world], [200])
    found = paired_difference(values, np.zeros_like(values))
    assert 0.945 <= coverage(found, world.mean()) <= 0.985
    assert np.mean(found.high - found.low) < 1.15 * 2 * 1.96 * 0.08 / np.sqrt(200)


def test_the_unknown_is_empty_not_certain():
    one = clustered_mean([0.5])
    assert one.mean[0] == 0.5
    assert np.isnan(one.low[0])
    assert np.isnan(one.high[0])
    # six tasks of one prompt each: the overall must not look exact
    lone = clustered_mean([0, 1, 0, 1, 1, 0], tasks=list("abcdef"))
    assert lone.high[0] - lone.low[0] > 0.5
    assert brackets(one.low[0], one.high[0]) == brackets(None, None) == ""
    assert brackets(0.125, 1, ".2f") == " [0.12, 1.00]"


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[[1.0]]]])
def test_an_interval_of_nothing_is_refused(values):
    with pytest.raises(ValueError, match="not empty, all numbers"):
        clustered_mean(values)


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        clustered_mean([0.5, 70.0])
    with pytest.raises(ValueError, match="between -1 and 1"):
        paired_difference([70.0, 80.0], [60.0, 80.0])


def test_labels_of_another_length_are_refused():
    with pytest.raises(ValueError, match="2 values have 1 prompts and 2 tasks"):
        clustered_mean([1, 2], prompts=[0])
    with pytest.raises(ValueError, match="2 values have 1 prompts"):
        pooled_share([1, 0], [0])


def test_a_share_of_candidates_is_by_prompt():
    """Ten prompts, all candidates of each alike: they say as much as ten, whatever their candidates."""
    right = np.repeat([1] * 7 + [0] * 3, 16)
    found = pooled_share(right, np.repeat(np.arange(10), 16))
    exact = binomtest(7, 10).proportion_ci(0.95, method="exact")
    assert (found.low[0], found.high[0]) == pytest.approx((exact.low, exact.high))
    assert np.isnan(pooled_share([1, 1, 0], [5, 5, 5]).low[0])
    uneven = pooled_share([1, 1, 1, 0], [0, 0, 0, 1])
    assert uneven.mean[0] == 0.75
    assert 0 < uneven.low[0] < 0.2


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3), st.booleans()), min_size=2, max_size=40))
def test_the_interval_of_an_auc(rows):
    prompts, scores, right = (np.array(x) for x in zip(*rows, strict=True))
    found = auc_interval(scores, right, prompts)
    if right.all() or not right.any() or len(set(prompts)) < 2:
        assert np.isnan(found.low[0])
        return
    assert found.mean[0] == auc(scores, right)
    assert 0 <= found.low[0] <= found.mean[0] <= found.high[0] <= 1
    assert found.high[0] > found.low[0]
    reversed_ = auc_interval(-scores, right, prompts)
    assert ends(reversed_) == pytest.approx(1 - ends(found)[::-1], abs=1e-6)
    # more candidates of the same prompts are not more prompts
    twice = auc_interval(np.tile(scores, 2), np.tile(right, 2), np.tile(prompts, 2))
    assert ends(twice) == pytest.approx(ends(found), abs=1e-9)


def test_aucs_are_covered():
    rng = np.random.default_rng(0)
    ease = rng.beta(1, 1, (5000, 1))
    right = rng.random((5000, 8)) < ease
    scores = 1.5 * right + rng.standard_normal(right.shape) + rng.standard_normal((5000, 1))
    truth = auc(scores.ravel(), right.ravel())
    for prompts in (4, 30):
        found = []
        for _ in range(300):
            rows = rng.integers(0, 5000, prompts)
            part = auc_interval(scores[rows].ravel(), right[rows].ravel(), np.repeat(np.arange(prompts), 8))
            found.append(np.isnan(part.low[0]) or part.low[0] <= truth <= part.high[0])
        assert np.mean(found) >= 0.95


def test_auc_by_hand():
    assert auc([1, 2, 3, 4], [False, False, True, True]) == 1.0
    assert auc([1, 1], [False, True]) == 0.5
    assert auc([3, 1, 2], [True, False, True]) == 1.0
    assert auc([1, 3, 2, 2], [True, True, False, False]) == pytest.approx(0.5)
    assert np.isnan(auc([1, 2], [True, True]))
