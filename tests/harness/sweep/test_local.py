"""The local engine: shards of small models in several processes, and what it does when one of them fails."""

from __future__ import annotations

import gc
import time
import weakref
from queue import SimpleQueue
from threading import Semaphore
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from vhsbench.harness.common.children import Child, ChildEnded
from vhsbench.harness.config.run import parse
from vhsbench.harness.sweep import local as engine
from vhsbench.harness.sweep.run import load_prompts
from vhsbench.harness.sweep.shards import Worker, WorkerError, shards

CONFIG = "generators: [{name: nano}]\nverifiers: [{name: vhs}, {name: mllm-clip}]\nprompts: {source: nano, limit: 16}\npool: 2\n"


@pytest.fixture(scope="module")
def worker():
    """A worker of nano whose rows say two threads."""
    config = parse(CONFIG, "test.yaml")
    with engine._threads(2):
        return Worker(config, load_prompts(config), 0)


@pytest.fixture(scope="module")
def todo(worker):
    return shards(worker.config, len(worker.prompts))


def test_another_process_with_one_thread_makes_the_same_rows_bit_for_bit(worker, todo):
    left, done = SimpleQueue(), SimpleQueue()
    for shard in todo:
        left.put(shard)
    child = Child(engine._help, worker.config, worker.prompts, 0, 2, 1)
    try:
        engine._feed(child, left, done)
    finally:
        child.close()
    for shard in todo:
        there = done.get_nowait()
        with engine._threads(2):
            here = worker.work(shard)
        assert there.shard == shard
        assert (there.identity, there.images, there.about) == (here.identity, here.images, here.about)
        assert len(here.tables["scores"]) == 32
        for name, rows in here.tables.items():
            pd.testing.assert_frame_equal(there.tables[name], rows, check_exact=True)


@pytest.mark.parametrize(
    ("threads", "count", "expected"),
    [(1, 25, 1), (2, 25, 2), (2, engine.FEWEST - 1, 1), (64, 25, 8), (64, 6, 3)],
)
def test_small_models_have_a_process_a_thread_where_there_is_work_for_them(worker, threads, count, expected):
    with engine._threads(threads):
        assert engine._processes(worker, count) == expected


@pytest.mark.parametrize(
    "changed",
    [{"on_cpu": False}, {"entry": SimpleNamespace(name="another")}, {"generator": SimpleNamespace(
        modules=lambda: {"transformer": torch.nn.Linear(2**13, 2**14, device="meta")})}],
    ids=["on a GPU", "of another package", "large"],
)  # fmt: skip
def test_other_models_stay_in_one_process(worker, changed):
    other = SimpleNamespace(**vars(worker) | changed)
    other.config = SimpleNamespace(
        verifiers_of=lambda entry: worker.config.verifiers,
        detector=worker.config.detector,
        judged_by=worker.config.judged_by,
    )
    with engine._threads(2):
        assert engine._processes(other, 25) == 1


def test_models_are_freed_before_the_next_are_loaded(monkeypatch):
    loaded, left = [], []

    class Holding:
        """A worker whose parts hold each other."""

        on_cpu = False

        def __init__(self, config, prompts, entry):
            left.append([each() is not None for each in loaded])
            loaded.append(weakref.ref(self))
            self.me = self

        def work(self, shard):
            return shard.entry

    monkeypatch.setattr(engine, "Worker", Holding)
    monkeypatch.setattr(engine, "_processes", lambda worker, count: 1)
    todo = [SimpleNamespace(entry=entry) for entry in (0, 0, 1)]
    gc.disable()
    try:
        assert list(engine.local(None, [], todo)) == [0, 0, 1]
    finally:
        gc.enable()
    assert left == [[], [False]]


class Helper:
    """A process that answers each shard with its name, or with an error."""

    def __init__(self, error=None):
        self.error, self.asked, self.ended = error, [], []

    def send(self, shard):
        self.asked.append(shard)

    def receive(self):
        if self.error and self.asked:
            raise self.error
        return f"{self.asked[-1]} there" if self.asked else None

    def kill(self):
        self.ended.append("killed")

    def close(self):
        self.ended.append("closed")


def shared(monkeypatch, helper):
    monkeypatch.setattr(engine, "Child", lambda *given: helper)
    here = SimpleNamespace(config=None, prompts=[], work=lambda shard: f"{shard} here")
    work = [SimpleNamespace(entry=0) for _ in range(9)]
    return work, engine._shared(here, work, 2)


def test_every_shard_is_made_once_by_one_of_them(monkeypatch):
    helper, threads = Helper(), 2
    torch.set_num_threads(threads)
    work, done = shared(monkeypatch, helper)
    assert sorted(text.rpartition(" ")[0] for text in done) == sorted(map(str, work))
    assert helper.ended == ["closed"]
    assert torch.get_num_threads() == threads


def test_what_another_process_has_done_does_not_wait_for_this_ones_last_shard(monkeypatch):
    """What is done is handed over to be written before this process begins another shard: else a kill loses it."""
    handed, when_begun, permits = [], [], Semaphore(0)

    class Paced(Helper):
        """Answers twice for each shard that is made here."""

        def receive(self):
            if self.asked:
                permits.acquire()
            return super().receive()

    def work(shard):
        when_begun.append(len(handed))
        permits.release(2)
        while len(helper.asked) < min(
            2 * len(when_begun) + 1, 6
        ):  # its two answers are there once it is asked again
            time.sleep(0.001)
        return f"{shard} here"

    helper = Paced()
    monkeypatch.setattr(engine, "Child", lambda *given: helper)
    here = SimpleNamespace(config=None, prompts=[], work=work)
    for made in engine._shared(here, [SimpleNamespace(entry=0) for _ in range(9)], 2):
        handed.append(made)
    assert when_begun == [0, 3, 6]
    assert len(handed) == 9


@pytest.mark.parametrize(
    ("error", "raised", "said"),
    [(ValueError("as it was"), ValueError, "as it was"), (ChildEnded(-9), WorkerError, "exit code -9")],
)
def test_what_goes_wrong_in_another_process_is_raised_here_and_ends_it(monkeypatch, error, raised, said):
    helper = Helper(error)
    _, done = shared(monkeypatch, helper)
    monkeypatch.setattr(engine, "_next", lambda left, taken=[]: "s")
    with pytest.raises(raised, match=said):
        list(done)
    assert helper.ended == ["killed", "closed"]
