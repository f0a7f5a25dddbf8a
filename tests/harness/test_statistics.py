from __future__ import annotations

import numpy as np
import pytest

from harness.statistics import (
    auc,
    bootstrap_weights,
    cluster_bootstrap,
    interval,
    paired_difference,
    prompt_mean,
    task_mean,
)


def test_bootstrap_redraws_each_task_at_its_own_size():
    strata = np.array(["a"] * 3 + ["b"] * 5)
    weights = bootstrap_weights(strata, 50)
    assert np.all(weights[:, :3].sum(1) == 3)
    assert np.all(weights[:, 3:].sum(1) == 5)
    assert np.array_equal(weights, bootstrap_weights(strata, 50))


def test_prompt_and_task_means_by_hand():
    values, strata = np.array([[1.0], [0.0], [0.0], [0.0]]), np.array(["a", "b", "b", "b"])
    weights = np.ones((1, 4))
    assert prompt_mean(values, weights)[0][0] == 0.25
    assert task_mean(values, strata, weights)[0][0] == 0.5
    assert task_mean(values, strata, weights)[1][0, 0] == 0.5


def test_the_interval_covers_the_truth_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        values = (rng.random((80, 1)) < 0.7).astype(float)
        weights = bootstrap_weights(np.zeros(80), 400, seed=trial)
        found = interval(*prompt_mean(values, weights), 80)
        covered += bool(found.low[0] <= 0.7 <= found.high[0])
    assert 0.90 <= covered / 300 <= 0.985


def test_seeds_of_a_prompt_are_averaged_first():
    prompts = [7, 3, 7, 3, 7]
    found = cluster_bootstrap([1, 0, 0, 0, 1], prompts)
    assert found.n == 2
    assert found.mean[0] == pytest.approx((2 / 3 + 0) / 2)
    alone = cluster_bootstrap([0, 2 / 3])  # prompts 3 and 7
    assert found.low[0] == pytest.approx(alone.low[0])
    assert found.high[0] == pytest.approx(alone.high[0])


def test_both_overalls_and_many_columns():
    tasks = ["a", "b", "b", "b"]
    values = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    assert cluster_bootstrap(values, tasks=tasks).mean.tolist() == [0.25, 0.5]
    by_task = cluster_bootstrap(values, tasks=tasks, by_task=True)
    assert np.allclose(by_task.mean, [0.5, 1 / 3])
    assert np.all(by_task.low <= by_task.mean)
    assert np.all(by_task.mean <= by_task.high)


def test_a_pair_is_narrower_than_its_two_intervals():
    rng = np.random.default_rng(0)
    hard = rng.random(100)
    a, b = hard + 0.1 + 0.01 * rng.random(100), hard
    difference, single = paired_difference(a, b), cluster_bootstrap(a)
    assert difference.mean[0] == pytest.approx(a.mean() - b.mean())
    assert difference.high - difference.low < 0.1 * (single.high - single.low)
    assert difference.low[0] > 0
    with pytest.raises(ValueError, match="same rows"):
        paired_difference([1], [1, 2])


def test_the_unknown_is_empty_not_certain():
    one = cluster_bootstrap([0.5])
    assert one.mean[0] == 0.5
    assert np.isnan(one.low[0])
    assert np.isnan(one.high[0])
    # six tasks of one prompt each: the overall must not look exact
    lone = cluster_bootstrap([0, 1, 0, 1, 1, 0], tasks=list("abcdef"))
    assert lone.high[0] - lone.low[0] > 0.5


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [[[1.0]]]])
def test_a_bootstrap_of_nothing_is_refused(values):
    with pytest.raises(ValueError, match="not empty, all numbers"):
        cluster_bootstrap(values)


def test_labels_of_another_length_are_refused():
    with pytest.raises(ValueError, match="2 values have 1 prompts and 2 tasks"):
        cluster_bootstrap([1, 2], prompts=[0])


def test_auc_by_hand():
    assert auc([1, 2, 3, 4], [False, False, True, True]) == 1.0
    assert auc([1, 1], [False, True]) == 0.5
    assert auc([3, 1, 2], [True, False, True]) == 1.0
    assert auc([1, 3, 2, 2], [True, True, False, False]) == pytest.approx(0.5)
    assert np.isnan(auc([1, 2], [True, True]))
