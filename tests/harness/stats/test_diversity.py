"""How different winners are: against all pairs and the published definition of the Vendi score."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vhsbench.harness.stats.diversity import distance, vendi
from vhsbench.harness.stats.expected import chances


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_vendi_counts_different_pictures():
    same = np.tile(unit(np.ones(4)), (3, 1, 1))
    assert vendi(same, np.ones((3, 1))) == pytest.approx(1)
    apart = np.eye(4)[:3].reshape(3, 1, 4)
    assert vendi(apart, np.ones((3, 1))) == pytest.approx(3)
    assert vendi(np.eye(4).reshape(1, 4, 4), np.array([[0.5, 0.5, 0, 0]])) == pytest.approx(2)


def test_both_are_those_of_all_winners_written_out():
    rng = np.random.default_rng(0)
    features = unit(rng.normal(size=(3, 4, 5)))
    won = np.stack([chances(row)[:, 1] for row in rng.normal(size=(3, 4))])
    f, p = features.reshape(-1, 5), won.ravel() / 3
    values = np.linalg.eigvalsh(np.sqrt(p)[:, None] * (f @ f.T) * np.sqrt(p))  # of the weighted kernel
    values = values[values > 1e-12]
    assert vendi(features, won) == pytest.approx(np.exp(-np.sum(values * np.log(values))))
    pairs = []
    for a, b in itertools.permutations(range(3), 2):
        apart = 1 - features[a] @ features[b].T
        pairs.append(won[a] @ apart @ won[b])
    assert distance(features, won, [0, 1, 2]) == pytest.approx(np.mean(pairs))


def test_seeds_of_a_prompt_are_no_two_prompts():
    features, won = np.eye(3)[:, None], np.ones((3, 1))
    assert np.isnan(distance(features, won, [7, 7, 7]))
    assert distance(features, won, [7, 7, 8]) == pytest.approx(1)
