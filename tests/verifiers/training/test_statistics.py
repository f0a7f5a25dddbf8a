from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vhsbench.verifiers.training.shards import DataCard, ShardDataset, ShardWriter
from vhsbench.verifiers.training.statistics import Moments, feature_moments


@settings(max_examples=60)
@given(
    values=arrays(np.float64, st.tuples(st.integers(1, 40), st.just(3)), elements=st.floats(-1e3, 1e3)),
    cuts=st.lists(st.integers(0, 40), max_size=4),
    offset=st.sampled_from([0.0, 1e4, -1e7]),
)
def test_moments_of_parts_are_numpys_of_the_whole(values, cuts, offset):
    values = values + offset
    moments = Moments(3)
    for part in np.split(values, sorted(min(c, len(values)) for c in cuts)):
        moments.add(torch.from_numpy(part))
    assert moments.count == len(values)
    np.testing.assert_allclose(moments.mean.numpy(), values.mean(0), rtol=1e-12, atol=1e-9)
    spread = 1e-9 * (1 + np.square(values - values.mean(0)).mean(0))
    np.testing.assert_allclose(
        moments.variance.numpy(), values.var(0), rtol=1e-9, atol=float(spread.max() + 1e-15 * offset**2)
    )


def test_the_variance_survives_a_large_mean():
    """Summed squares less the squared mean would leave nothing of this in float64."""
    values = 1e9 + np.random.default_rng(0).standard_normal((5000, 2))
    moments = Moments(2)
    for part in np.array_split(values, 7):
        moments.add(torch.from_numpy(part))
    np.testing.assert_allclose(moments.variance.numpy(), values.var(0), rtol=1e-6)
    naive = np.square(values).mean(0) - np.square(values.mean(0))
    assert not np.allclose(naive, values.var(0), rtol=0.1)


def test_no_features_have_no_variance():
    with pytest.raises(ValueError, match="no features"):
        _ = Moments(2).variance


@pytest.fixture
def dataset(tmp_path):
    card = DataCard("alignment", "nano", "abc", 1, "hidden", 5, (4, 8), "float16", "00")
    writer = ShardWriter(tmp_path, card)
    torch.manual_seed(0)
    for i in range(3):
        rows = [{"prompt_id": 0, "prompt": "", "tag": "", "seed": 0, "index": 0, "caption": ""}] * 10
        writer.write(i, (3 + torch.randn(10, 4, 8) * torch.arange(1, 9)).half(), rows)
    writer.finish()
    return ShardDataset(tmp_path)


def test_statistics_of_shards(dataset, monkeypatch):
    monkeypatch.setattr("vhsbench.verifiers.training.statistics._VALUES_AT_A_TIME", 3 * 32)
    every = dataset.batch(range(30))[0].double().numpy().reshape(-1, 8)
    mean, variance = feature_moments(dataset)
    assert mean.dtype == variance.dtype == torch.float32
    np.testing.assert_allclose(mean.numpy(), every.mean(0), rtol=1e-6)
    np.testing.assert_allclose(variance.numpy(), every.var(0), rtol=1e-6)


def test_a_subset_is_drawn_by_seed_without_repeats(dataset):
    seen: list[int] = []

    class Noting:
        card, folder = dataset.card, dataset.folder

        def __len__(self):
            return len(dataset)

        def batch(self, rows):
            seen.extend(rows)
            return dataset.batch(rows)

    one = feature_moments(Noting(), samples=12, seed=1)
    assert len(set(seen)) == len(seen) == 12
    assert torch.equal(one[0], feature_moments(dataset, samples=12, seed=1)[0])
    assert not torch.equal(one[0], feature_moments(dataset, samples=12, seed=2)[0])


def test_features_that_overflowed_are_one_sentence(dataset, tmp_path):
    dataset._features[0] = dataset._features[0].clone()
    dataset._features[0][0] = torch.inf
    with pytest.raises(ValueError, match="not finite; collect them in bfloat16"):
        feature_moments(dataset)
