"""Verdicts and scores behind generation: real overlap, bounded memory, the same results and the same faults."""

from __future__ import annotations

import threading
import time
import weakref

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vhsbench.harness.config.run import parse
from vhsbench.harness.geneval.judge import GenevalJudge
from vhsbench.harness.geneval.shapes import ShapeDetector
from vhsbench.harness.sweep.run import load_prompts, run
from vhsbench.harness.sweep.shards import MOST_SHARDS, SMALLEST_SHARD, Worker, shard_size, shards

BATCHES, STEP_S = 8, 0.12


class Judge(ShapeDetector):
    """The shape detector, with something to do before each batch."""

    def __init__(self, before) -> None:
        super().__init__()
        self.before = before

    def detect(self, images):
        self.before(images)
        return super().detect(images)


def judged_by(worker, detector):
    worker.bench.judges = [GenevalJudge(detector)]


def make_worker(faults, overlap, pool=BATCHES, batch_size=8):
    """A worker and its only shard, of BATCHES batches."""
    config = faults.config(limit=8, seeds="[0]", overlap=overlap)
    config = config.model_copy(update={"pool": pool, "batch_size": batch_size})
    prompts = load_prompts(config)
    (shard,) = shards(config, len(prompts))
    return Worker(config, prompts, 0), shard


def same(one, other):
    assert one.images == other.images
    for table, rows in one.tables.items():
        pd.testing.assert_frame_equal(rows, other.tables[table])


@given(groups=st.integers(1, 3000), prompts=st.integers(1, 5000))
def test_shards_grow_only_with_runs_that_have_too_many(groups, prompts):
    size = shard_size(groups, prompts)
    count = groups * -(-prompts // size)
    assert size >= SMALLEST_SHARD
    assert size % SMALLEST_SHARD == 0
    assert count <= MOST_SHARDS or size >= prompts  # as few as can be: one for each generator and seed
    if size > SMALLEST_SHARD:
        assert groups * -(-prompts // (size // 2)) > MOST_SHARDS  # no larger than needed


@pytest.mark.parametrize(
    ("seeds", "prompts", "keys"),
    [
        (1, 20, ["fake_seed=0_prompt=00000", "fake_seed=0_prompt=00008", "fake_seed=0_prompt=00016"]),
        (200, 20, ["fake_seed=0_prompt=00000+16", "fake_seed=0_prompt=00016+16"]),
    ],
)
def test_shards_cover_every_prompt_once_and_name_a_larger_size(faults, seeds, prompts, keys):
    config = faults.config(limit=prompts, seeds=str(list(range(seeds))))
    found = shards(config, prompts)
    assert [s.key for s in found if s.seed == 0] == keys
    assert len({s.key for s in found}) == len(found)
    for seed in range(seeds):
        of_seed = [s for s in found if s.seed == seed]
        assert [i for s in of_seed for i in range(s.start, s.stop)] == list(range(prompts))


def worked(faults, overlap):
    """What a worker makes of its shard, and of each batch but the last whether the next was begun before its verdict."""
    worker, shard = make_worker(faults, overlap)
    begun, meanwhile = [threading.Event() for _ in range(BATCHES)], []
    following, denoise = iter(begun), worker.generator.denoise

    def denoised(*batch):
        next(following).set()
        return denoise(*batch)

    def before(_):
        batch = len(meanwhile) + 1
        meanwhile.append(batch < BATCHES and begun[batch].wait(60 if overlap else 0))

    worker.generator.denoise = denoised
    judged_by(worker, Judge(before))
    return worker.work(shard), meanwhile[:-1]


def test_a_batch_is_judged_while_the_next_is_generated(faults):
    (apart, never), (together, always) = worked(faults, False), worked(faults, True)
    assert never == [False] * (BATCHES - 1)
    assert always == [True] * (BATCHES - 1)
    same(apart, together)


def test_no_more_than_two_batches_are_alive(faults):
    worker, shard = make_worker(faults, overlap=True)
    judged_by(worker, Judge(lambda _: time.sleep(STEP_S / 4)))
    batches, alive = [], []
    decode = worker.generator.decode

    def watched(latents):
        batches.append(weakref.ref(latents))
        alive.append(sum(batch() is not None for batch in batches))
        return decode(latents)

    worker.generator.decode = watched
    worker.work(shard)
    assert len(alive) == BATCHES
    assert max(alive) == 2
    assert not any(batch() is not None for batch in batches), "a batch outlived its shard"


def test_judging_has_a_thread_of_its_own_with_as_many_torch_threads(faults):
    worker, shard = make_worker(faults, overlap=True)
    seen = []
    judged_by(
        worker, Judge(lambda _: seen.append((threading.current_thread().name, torch.get_num_threads())))
    )
    worker.work(shard)
    assert {name for name, _ in seen} == {"judge_0"}
    assert {threads for _, threads in seen} == {torch.get_num_threads()}
    assert make_worker(faults, overlap=None)[0].behind is None, "on a CPU only when asked"


def test_by_default_there_is_overlap_where_generation_is_on_a_gpu(faults, monkeypatch):
    import vhsbench_fakes

    init = vhsbench_fakes.FakeGenerator.__init__

    def on_gpu(self, *arguments):
        init(self, *arguments)
        self.device = torch.device("cuda", 0)

    monkeypatch.setattr(vhsbench_fakes.FakeGenerator, "__init__", on_gpu)
    assert make_worker(faults, overlap=None)[0].behind is not None
    assert make_worker(faults, overlap=False)[0].behind is None


@pytest.mark.parametrize("failing", ["detector", "verifier"])
def test_out_of_memory_while_judging_is_the_same_with_overlap(faults, failing):
    def refuse(images):
        if len(images) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    results = []
    for overlap in (False, True):
        worker, shard = make_worker(faults, overlap)
        if failing == "detector":
            judged_by(worker, Judge(refuse))
        else:
            score = worker.bench.verifiers[0].score
            worker.bench.verifiers[0].score = lambda p, f, score=score: refuse(f) or score(p, f)
        results.append(worker.work(shard))
    same(*results)
    assert results[1].tables["incidents"][["kind", "batch"]].to_numpy().tolist() == [
        ["out_of_memory", 8], ["out_of_memory", 4],
    ]  # fmt: skip
    assert len(results[1].tables["candidates"]) == 8 * BATCHES


def test_a_prompt_that_cannot_be_judged_is_the_same_with_overlap(faults):
    results = []
    for overlap in (False, True):
        worker, shard = make_worker(faults, overlap)
        score = worker.bench.verifiers[0].score
        victim = worker.prompts[3]["prompt"]

        def refuse(prompts, features, score=score, victim=victim):
            if victim in prompts:
                raise RuntimeError("no score")
            return score(prompts, features)

        worker.bench.verifiers[0].score = refuse
        results.append(worker.work(shard))
    same(*results)
    incidents = results[1].tables["incidents"]
    assert incidents[["prompt_id", "kind", "reason"]].to_numpy().tolist() == [
        [3, "failed", "RuntimeError: no score"]
    ]
    assert sorted(results[1].tables["candidates"]["prompt_id"].unique()) == [0, 1, 2, 4, 5, 6, 7]


def test_the_first_error_in_the_order_of_batches_is_the_one_that_is_raised(faults):
    worker, _ = make_worker(faults, overlap=True)
    generated = threading.Event()

    def late(images):
        assert generated.wait(60)  # the next batch has failed by now
        raise RuntimeError("judging the first batch")

    judged_by(worker, Judge(late))
    noise, calls = worker.generator.noise, []

    def fails_second(seeds):
        calls.append(len(seeds))
        if len(calls) == 2:
            generated.set()
            raise RuntimeError("generating the second batch")
        return noise(seeds)

    worker.generator.noise = fails_second
    with pytest.raises(RuntimeError, match="judging the first batch"):
        worker._batches([[(0, 0, i)] for i in range(3)])
    assert len(calls) == 2


def test_nano_gives_the_same_bytes_with_overlap(faults, tmp_path):
    config = parse(
        "generators: [{name: nano}]\nverifiers: [{name: vhs}, {name: mllm-ae}]\n"
        "prompts: {source: nano, split: validation, limit: 6}\npool: 4\nbatch_size: 6\n"
        "gallery_prompts: 2\nthreads: 1\n",
        "nano.yaml",
    )
    one, other = (
        run(config.model_copy(update={"overlap": overlap}), tmp_path / str(overlap))
        for overlap in (False, True)
    )
    tables = faults.tables(one)
    assert len(tables) == 2 + 2 * 4
    assert faults.tables(other) == tables


def test_a_worker_that_is_let_go_leaves_no_thread_and_no_models(faults):
    others = set(threading.enumerate())  # other tests' errors may hold on to their workers
    worker, shard = make_worker(faults, overlap=True)
    worker.work(shard)
    (thread,) = (t for t in set(threading.enumerate()) - others if t.name == "judge_0")
    generator = weakref.ref(worker.generator)
    del worker
    assert generator() is None, "the models would stay on the GPU while costs are measured"
    thread.join(60)
    assert not thread.is_alive()


def test_a_run_records_what_of_a_lora_was_applied():
    config = parse(
        "generators: [{name: nano}, {name: nano, lora: bundled, lora_strength: 0.5}]\n"
        "verifiers: [{name: mllm-ae}]\nprompts: {source: nano, limit: 1}\npool: 1\n",
        "nano.yaml",
    )
    prompts = load_prompts(config)
    plain, moved = (Worker(config, prompts, i).about["loras"] for i in range(2))
    assert plain == {}
    assert moved == {
        config.generators[1].key: {"transformer": 8 * 2 * 4 * 2}
    }  # blocks, attentions, projections, A and B
