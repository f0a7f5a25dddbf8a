from __future__ import annotations

import numpy as np
import pytest

from harness.statistics import auc, bootstrap_weights, interval, prompt_mean, task_mean


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


def test_auc_by_hand():
    assert auc([1, 2, 3, 4], [False, False, True, True]) == 1.0
    assert auc([1, 1], [False, True]) == 0.5
    assert auc([3, 1, 2], [True, False, True]) == 1.0
    assert auc([1, 3, 2, 2], [True, True, False, False]) == pytest.approx(0.5)
    assert np.isnan(auc([1, 2], [True, True]))
