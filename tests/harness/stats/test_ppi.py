"""Prediction-powered inference: without bias whatever the sample, as published, and of the coverage that it says."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest

from vhsbench.harness.stats.intervals import clustered_mean
from vhsbench.harness.stats.ppi import power, powered_mean
from vhsbench.harness.stats.stratified import Sample

K = np.arange(400)
GUESSES = ((K * 7) % 10 < 7).astype(float)
TRUTHS = np.where((K * 13) % 17 < 3, 1 - GUESSES, GUESSES)
LABELLED = (K * 31) % 4 == 0
ONES = np.ones(400)


def known(labelled, truths):
    return np.where(labelled, truths, np.nan)


def test_the_mean_over_all_samples_is_the_truth():
    """Every stratified sample of two strata, of which both fractions differ; lambda is fixed, as a tuned one depends on the sample."""
    strata = np.array([0] * 4 + [1] * 6)
    truths = np.array([1, 0, 1, 1, 0, 0, 1, 0, 0, 0], float)
    means = []
    for first, second in product(combinations(range(4), 3), combinations(range(4, 10), 2)):
        labelled = np.isin(np.arange(10), [*first, *second])
        sample = Sample(strata, np.arange(10), labelled)
        means.append(sample.spread(known(labelled, truths)).mean())
    assert np.mean(means) == pytest.approx(truths.mean(), abs=1e-12)
    assert np.std(means) > 0.05


@pytest.mark.parametrize(
    ("guesses", "value", "low", "high"),
    [  # of ppi_python 0.2.3: ppi_mean_pointestimate and ppi_mean_ci, lambda tuned
        (GUESSES, 0.6524999999999999, 0.5720561221109299, 0.7329438778890698),
        (
            np.clip(0.15 + 0.7 * GUESSES + 0.1 * np.sin(K), 0, 1),
            0.6568711654114987, 0.5750497778501378, 0.7386925529728596,
        ),
    ],
)  # fmt: skip
def test_a_plain_random_sample_gives_what_is_published(guesses, value, low, high):
    sample = Sample(np.zeros(400), K, LABELLED)
    found = powered_mean(sample, ONES, guesses, known(LABELLED, TRUTHS))
    assert found.labels == 100
    assert found.estimate.value == pytest.approx(value, abs=6e-4)  # a covariance over n - 1, not n
    covariance = np.cov(TRUTHS[LABELLED], guesses[LABELLED])[0, 1]
    assert found.tuning == pytest.approx(covariance / guesses.var(ddof=1), rel=1e-9)
    residual = np.where(LABELLED, TRUTHS - found.tuning * guesses, 0.0)
    spread = found.tuning * guesses + sample.spread(residual)
    assert 2 * 1.959964 * spread.std(ddof=1) / 20 == pytest.approx(high - low, rel=0.02)
    # ours is a little wider: one label more, unseen
    assert 1.0 < (found.estimate.high - found.estimate.low) / (high - low) < 1.15


def test_predictions_that_are_useless_are_not_used_and_right_ones_are():
    sample = Sample(np.zeros(400), K, LABELLED)
    constant = powered_mean(sample, ONES, np.full(400, 0.9), known(LABELLED, TRUTHS))
    assert constant.tuning == 0
    assert constant.estimate.value == pytest.approx(TRUTHS[LABELLED].mean(), abs=1e-12)
    worse = powered_mean(sample, ONES, 1 - TRUTHS, known(LABELLED, TRUTHS))
    assert worse.tuning == 0
    right = powered_mean(sample, ONES, TRUTHS, known(LABELLED, TRUTHS))
    assert right.tuning > 0.9
    off, classical = (abs(found.estimate.value - TRUTHS.mean()) for found in (right, constant))
    assert off < 0.1 * classical


def test_with_all_labelled_it_is_the_mean_and_interval_of_any_other_table():
    sample = Sample(K % 3, K, np.ones(400, bool))
    found = powered_mean(sample, ONES, GUESSES, TRUTHS).estimate
    plain = clustered_mean(TRUTHS)
    assert (found.value, found.low, found.high) == pytest.approx(
        (plain.mean[0], plain.low[0], plain.high[0]), abs=5e-4
    )


def test_weights_of_two_sides_give_the_difference_and_each_prompt_counts_once():
    sample = Sample(np.zeros(400), K // 2, np.ones(400, bool))
    first, second = ((side == K % 2).astype(float) for side in (0, 1))
    difference = powered_mean(sample, first - second, GUESSES, TRUTHS).estimate
    assert difference.value == pytest.approx(TRUTHS[::2].mean() - TRUTHS[1::2].mean(), abs=1e-12)
    assert difference.low < difference.value < difference.high
    assert difference.low >= -1
    assert difference.high <= 1


def test_a_stratum_without_two_labels_leaves_the_estimate_unknown():
    strata = np.array([0, 0, 0, 1, 1, 1, 2])
    labelled = np.array([1, 1, 0, 1, 0, 0, 0], bool)
    sample = Sample(strata, np.arange(7), labelled)
    assert sample.wanting(np.ones(7)) == 2  # one of the second stratum, and the third's only unit
    assert sample.wanting(np.where(strata == 0, 1.0, 0.0)) == 0
    found = powered_mean(sample, np.ones(7), np.ones(7), np.ones(7))
    assert np.isnan([found.estimate.value, found.estimate.low, found.estimate.high, found.tuning]).all()
    assert powered_mean(sample, np.where(strata == 0, 1.0, 0.0), np.ones(7), np.ones(7)).labels == 2


def world(rng, prompts, wrong_yes, wrong_no):
    """Two or three candidates a prompt, of which one is a verifier's pick; a judge that is sometimes wrong."""
    prompt = np.repeat(np.arange(prompts), rng.integers(2, 4, prompts))
    hard = rng.beta(2, 1, prompts)[prompt]
    truths = (rng.random(len(prompt)) < hard).astype(float)
    flips = rng.random(len(prompt)) < np.where(truths == 1, wrong_no, wrong_yes)
    weights = np.zeros(len(prompt))
    weights[np.unique(prompt, return_index=True)[1]] = 1
    return prompt, truths, np.where(flips, 1 - truths, truths), weights


def test_intervals_cover_the_truth_and_predictions_make_them_narrower():
    rng = np.random.default_rng(0)
    covered, widths, classical, errors = [], [], [], []
    for _ in range(250):
        prompt, truths, guesses, weights = world(rng, 150, 0.15, 0.08)
        strata = 2 * (weights > 0) + guesses
        labelled = np.zeros(len(prompt), bool)
        for stratum, share in ((0, 0.15), (1, 0.15), (2, 0.5), (3, 0.4)):
            mine = np.flatnonzero(strata == stratum)
            labelled[rng.choice(mine, max(2, int(share * len(mine))), replace=False)] = True
        sample = Sample(np.zeros(len(prompt)) + strata, prompt, labelled)
        found = powered_mean(sample, weights, guesses, known(labelled, truths)).estimate
        covered.append(found.low <= 2 / 3 <= found.high)
        widths.append(found.high - found.low)
        errors.append(found.value - 2 / 3)
        picked = Sample(np.zeros(150), prompt[weights > 0], labelled[weights > 0])
        few = powered_mean(
            picked, np.ones(150), np.zeros(150), known(picked.labelled, truths[weights > 0])
        ).estimate
        classical.append(few.high - few.low)
    assert 0.93 <= np.mean(covered) <= 0.995
    assert abs(np.mean(errors)) < 3 * np.std(errors) / np.sqrt(250)
    assert np.mean(widths) < 0.9 * np.mean(classical)


def test_power_is_of_least_variance():
    """By brute force: no other lambda has a smaller variance of the stratified mean."""
    rng = np.random.default_rng(1)
    strata = rng.integers(0, 3, 3000)
    guesses = rng.random(3000) + 0.2 * strata
    truths = 0.6 * guesses + rng.normal(size=3000) * 0.1
    labelled = rng.random(3000) < np.array([0.1, 0.3, 0.6])[strata]
    sample = Sample(strata, np.arange(3000), labelled)
    best = power(sample, np.where(labelled, truths, 0.0), guesses)

    def variance(tuning):
        left = truths - tuning * guesses
        units, labels = sample.sizes
        parts = [left[strata == h].var(ddof=1) for h in range(3)]
        return np.sum(units**2 * (1 / labels - 1 / units) * parts)

    found = min(np.linspace(0, 1, 101), key=variance)
    assert best == pytest.approx(found, abs=0.02)
