"""The order of data depends on seed and step, and on nothing else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vhsbench.verifiers.training.samples import Order, feature_batches, share


@given(st.integers(1, 50), st.integers(1, 40), st.integers(0, 5))
def test_every_sample_comes_once_an_epoch(samples, batch, seed):
    order = Order(samples, batch, (seed,))
    steps = -(-3 * samples // batch)  # three epochs
    drawn = [i for step in range(steps) for i in order.batch(step)]
    for epoch in range(3):
        assert sorted(drawn[epoch * samples : (epoch + 1) * samples]) == list(range(samples))


def test_a_step_is_the_same_whatever_was_asked_before():
    asked, fresh = (Order(100, 16, (7, 1)) for _ in range(2))
    before = [asked.batch(step) for step in range(12)]
    assert before[9] == fresh.batch(9)
    assert before[9] != Order(100, 16, (8, 1)).batch(9)


@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 7))
def test_processes_and_micro_batches_share_a_batch_without_rest(processes, each, micro_batch):
    batch = list(range(100, 100 + processes * each))
    parts = [share(batch, p, processes, micro_batch) for p in range(processes)]
    assert [i for part in parts for micro in part for i in micro] == batch
    assert len({len(part) for part in parts}) == 1
    assert all(len(micro) <= micro_batch for part in parts for micro in part)


def test_readers_ahead_keep_the_order(data):
    from vhsbench.verifiers.training.shards import ShardDataset

    samples = ShardDataset(data.train)
    parts = [[3, 1], [0, 2], [5, 4]]
    for workers in (0, 2):
        read = list(feature_batches(samples, parts.__getitem__, 1, 3, workers, pin=False))
        assert [r.tolist() for r in read] == [samples.batch(p)[0].tolist() for p in parts[1:]]
