"""Agreement and Cohen's kappa against other packages' numbers, under weights, and at their ends."""

from __future__ import annotations

import numpy as np
import pytest

from vhsbench.harness.stats.agreement import agreement
from vhsbench.harness.stats.stratified import Sample

CELLS = [(True, True)] * 66 + [(True, False)] * 14 + [(False, True)] * 4 + [(False, False)] * 16
FIRST, SECOND = (np.array([pair[side] for pair in CELLS]) for side in (0, 1))


def of(first, second, strata=None, labelled=None, decided=None):
    n = len(first)
    yes = np.ones(n, bool)
    sample = Sample(
        np.zeros(n) if strata is None else strata, np.arange(n), yes if labelled is None else labelled
    )
    return agreement(sample, first, second, yes if decided is None else decided)


def test_value_interval_and_confusion_are_those_of_other_packages():
    found = of(FIRST, SECOND)
    assert (found.both_right, found.first_right, found.second_right, found.both_wrong) == (66, 14, 4, 16)
    assert found.n == 100
    assert found.agreement.value == pytest.approx(0.82, abs=1e-12)
    assert found.kappa.value == pytest.approx(0.5263157894736843, abs=1e-12)  # sklearn's cohen_kappa_score
    # statsmodels' cohens_kappa: 0.3399 to 0.7128, without one unit more, unseen
    assert 0.29 < found.kappa.low < 0.3399
    assert 0.7128 < found.kappa.high < 0.74
    # Clopper and Pearson's, of 82 in 100
    assert (found.agreement.low, found.agreement.high) == pytest.approx((0.7305, 0.8897), abs=2e-3)


def test_strata_count_by_their_size_as_sample_weights_do():
    """A twentieth and half of two strata drawn: sklearn's kappa of the same cells with weights 20 and 2."""
    mine = np.where(np.arange(100) % 3 == 0, 0, 1)
    strata = np.concatenate([mine, np.repeat([0, 1], [34 * 19, 66])])
    first, second = (np.concatenate([side, np.zeros(34 * 19 + 66, bool)]) for side in (FIRST, SECOND))
    found = of(first, second, strata, labelled=np.arange(len(strata)) < 100)
    assert found.kappa.value == pytest.approx(0.547898171919948, abs=1e-12)
    assert found.n == 100


def test_perfect_agreement_of_few_is_not_sure():
    few = of(np.arange(20) < 12, np.arange(20) < 12)
    assert few.kappa.value == 1 == few.kappa.high
    assert 0.3 < few.kappa.low < 0.8
    assert 0.8 < few.agreement.low < 0.9


def test_what_is_undecided_counts_nowhere():
    decided = np.arange(100) % 5 != 0
    found, alone = of(FIRST, SECOND, decided=decided), of(FIRST[decided], SECOND[decided])
    assert found.n == alone.n == 80
    assert found.kappa.value == pytest.approx(alone.kappa.value, abs=1e-12)


def test_the_unknown_is_empty():
    one_class = of(np.ones(10, bool), np.ones(10, bool))
    assert one_class.agreement.value == 1
    assert np.isnan(one_class.kappa.value)
    unlabelled = of(FIRST, SECOND, labelled=np.arange(100) < 1)
    assert np.isnan([unlabelled.agreement.value, unlabelled.kappa.value]).all()
    assert unlabelled.n == 1
    assert np.isnan(of(FIRST, SECOND, decided=np.zeros(100, bool)).agreement.value)


def test_kappas_interval_covers_the_truth():
    rng = np.random.default_rng(0)
    p = np.array([0.66, 0.14, 0.04, 0.16])
    truth = (0.82 - (0.8 * 0.7 + 0.2 * 0.3)) / (1 - (0.8 * 0.7 + 0.2 * 0.3))
    covered = []
    for _ in range(300):
        cell = rng.choice(4, 400, p=p)
        labelled = np.zeros(400, bool)
        labelled[rng.choice(400, 80, replace=False)] = True
        found = of(cell < 2, cell % 2 == 0, labelled=labelled).kappa
        covered.append(found.low <= truth <= found.high)
    assert 0.93 <= np.mean(covered) <= 0.995
