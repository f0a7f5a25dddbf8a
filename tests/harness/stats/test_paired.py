"""The statistics against closed forms, other libraries, and simulation: no models."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from vhsbench.harness.stats.intervals import auc
from vhsbench.harness.stats.paired import (
    auc_permutation,
    detectable,
    family,
    holm,
    mcnemar,
    prompts_needed,
    seeds_needed,
    sign_flip,
    sign_flip_two_sided,
    standard_error,
)


def test_sign_flip_agrees_with_all_sign_patterns():
    d = np.array([0.4, -0.9, 0.1, -0.6, 0.2, -0.5, -0.3])
    patterns = np.array(list(itertools.product((-1, 1), repeat=len(d))))
    exact = (patterns @ d <= d.sum() + 1e-12).mean()
    assert sign_flip(d[:, None], 20_000)[0] == pytest.approx(exact, abs=0.01)


def test_sign_flip_of_no_difference_is_one_and_never_zero():
    assert sign_flip(np.zeros((20, 3)), 99).tolist() == [1.0, 1.0, 1.0]
    assert sign_flip(np.full((200, 1), -1.0), 99)[0] == pytest.approx(1 / 100)
    assert sign_flip(np.full((200, 1), 1.0), 99)[0] == 1.0


def test_rounding_is_no_difference():
    d = np.array(
        [[0.1 + 0.2 - 0.3, 0.1], [2e-16, 0.1], [1e-13, 0.1], [3e-16, 0.1], [2e-16, 0.1], [1e-16, 0.1]]
    )
    assert sign_flip_two_sided(d, 999).tolist() == [1.0, pytest.approx(2 / 64, abs=0.02)]


def test_sign_flip_is_exact_under_exchangeability():
    """Skewed differences, a heavy tail, few prompts: still at most the level, and close to it."""
    rng = np.random.default_rng(1)
    size = rng.lognormal(0, 1, (1500, 25))
    d = size * rng.choice([-1, 1], size.shape)
    rejected = np.mean([sign_flip(row[:, None], 399, seed=i)[0] <= 0.05 for i, row in enumerate(d)])
    assert 0.03 < rejected < 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_the_plain_and_bonferronis(p):
    adjusted = holm(p)
    assert (adjusted >= np.array(p) - 1e-12).all()
    assert (adjusted <= np.minimum(len(p) * np.array(p), 1) + 1e-12).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])


def test_mcnemar_is_the_exact_binomial_on_discordant_prompts():
    baseline = np.array([1] * 9 + [0] * 2 + [1] * 20 + [0] * 5)
    candidate = np.array([0] * 9 + [1] * 2 + [1] * 20 + [0] * 5)
    lost, won, p = mcnemar(baseline, candidate)
    assert (lost, won) == (9, 2)
    assert p == pytest.approx(binomtest(9, 11).pvalue)
    assert mcnemar(baseline, baseline) == (0, 0, 1.0)


def test_mcnemar_counts_a_prompt_once_whatever_its_seeds():
    baseline, candidate = np.ones((10, 1)), np.zeros((10, 1))
    once = mcnemar(baseline, candidate)
    assert mcnemar(np.repeat(baseline, 7, 1), np.repeat(candidate, 7, 1)) == once


def test_auc_permutation_is_the_auc_and_sees_a_difference():
    rng = np.random.default_rng(0)
    correct = rng.random((60, 6)) < 0.5
    good = correct + rng.standard_normal(correct.shape)
    bad = rng.standard_normal(correct.shape)
    a, b, p = auc_permutation(good, bad, correct, 199)
    assert (a, b) == (
        pytest.approx(auc(good.ravel(), correct.ravel())),
        pytest.approx(auc(bad.ravel(), correct.ravel())),
    )
    assert p == pytest.approx(1 / 200)
    # another scale is no difference
    assert auc_permutation(good, 100 * good - 3, correct, 199)[2] == 1.0
    assert auc_permutation(bad, good, correct, 199)[2] > 0.9  # better is not worse


def test_auc_permutation_holds_its_level_for_verifiers_of_two_scales():
    rng = np.random.default_rng(2)
    rejected = 0
    for i in range(200):
        correct = rng.random((30, 4)) < rng.uniform(0.2, 0.8, (30, 1))
        a, b = (correct + rng.standard_normal(correct.shape) for _ in range(2))
        rejected += auc_permutation(a, 5 * b, correct, 59, seed=i)[2] <= 0.05
    assert rejected / 200 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 200)


def test_auc_of_one_class_is_unknown():
    a, b, p = auc_permutation(np.ones((3, 2)), np.ones((3, 2)), np.ones((3, 2)))
    assert math.isnan(a)
    assert math.isnan(b)
    assert math.isnan(p)


def test_standard_error_is_of_the_mean_within_tasks():
    rng = np.random.default_rng(3)
    strata = np.repeat(["a", "b"], [40, 60])
    levels = np.where(strata == "a", 0.0, 50.0)
    means = [(levels + rng.standard_normal(100)).mean() for _ in range(3000)]
    values = levels + rng.standard_normal(100)
    assert standard_error(values, strata) == pytest.approx(np.std(means), rel=0.2)
    assert math.isnan(standard_error(np.ones(2), np.array(["a", "b"])))


def test_power_is_as_printed():
    """A true difference of what is printed as detectable is found in 80% of simulated pools."""
    alpha, prompts, spread = 0.025, 150, 12.0
    printed = detectable(spread / math.sqrt(prompts), alpha)
    assert printed == pytest.approx((1.96 + 0.8416) * spread / math.sqrt(prompts), rel=1e-3)
    rng = np.random.default_rng(4)
    trials = 600
    found = np.mean(
        [
            sign_flip(rng.normal(-printed, spread, (prompts, 1)), 399, seed=i)[0] <= alpha
            for i in range(trials)
        ]
    )
    assert found == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / trials) + 0.01)


def test_prompts_needed_brings_the_detectable_down_to_the_margin():
    needed = prompts_needed(100, 2.0, 1.0, 0.025)
    assert needed is not None
    assert detectable(2.0 * math.sqrt(100 / needed), 0.025) == pytest.approx(1.0, rel=1e-2)
    assert prompts_needed(100, 0.0, 1.0, 0.025) is None
    assert (
        prompts_needed(100, 1e-14, 2e-14, 0.025) is None
    )  # the same sums in another order: nothing to decide
    assert norm.isf(0.025) == pytest.approx(1.96, abs=1e-2)


def test_two_sided_signs():
    d = np.ones((8, 1))
    assert sign_flip_two_sided(d)[0] == sign_flip_two_sided(-d)[0] == pytest.approx(2 / 2**8, rel=0.25)
    assert sign_flip_two_sided(np.zeros((8, 1)))[0] == 1


def test_a_large_family_can_still_be_told_apart_and_a_small_one_is_as_it_was():
    rng = np.random.default_rng(3)
    one, noise = np.full(30, 0.5), rng.choice([-0.5, 0.5], 20)
    p, corrected = family([one, noise])
    assert p.tolist() == [sign_flip_two_sided(one[:, None])[0], sign_flip_two_sided(noise[:, None])[0]]
    assert corrected.tolist() == holm(p).tolist()
    _, corrected = family([one] * 300)
    # by 9999 permutations each p is at least 0.0002, and 300 times that is above 0.05
    assert corrected.max() < 0.05
    assert [values.tolist() for values in family([])] == [[], []]


def test_seeds_needed_scales_as_the_variance_of_the_mean_does():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (4000, 2))  # only seeds vary: twice as many halve the variance
    error = noise.mean(1).std(ddof=1) / math.sqrt(4000)
    margin = detectable(error, 0.025) / math.sqrt(2)
    assert seeds_needed(noise, error, margin, 0.025) == pytest.approx(4, abs=1)
    prompts = np.repeat(rng.normal(0, 1, (4000, 1)), 2, 1)  # only prompts vary: no number of seeds helps
    error = prompts.mean(1).std(ddof=1) / math.sqrt(4000)
    assert seeds_needed(prompts, error, detectable(error, 0.025) / 2, 0.025) is None
    assert seeds_needed(1e-14 * noise, 1e-14 * error, 1e-14 * margin, 0.025) is None
    assert seeds_needed(noise[:, :1], error, margin, 0.025) is None  # one seed says nothing of seeds


def test_two_sided_signs_are_those_of_both_sides():
    d = np.random.default_rng(1).choice([-0.5, -0.1, 0.0, 0.1, 0.3], (60, 3))
    smaller = np.minimum(sign_flip(d, 999), sign_flip(-d, 999))
    assert sign_flip_two_sided(d, 999).tolist() == np.minimum(1.0, 2 * smaller).tolist()
