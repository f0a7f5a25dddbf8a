"""Pools made with a variant: named by it, within rounding of plain ones, and the same bytes whoever makes them."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from vhsbench import generators
from vhsbench.generators.pictures import Pictures
from vhsbench.generators.protocol import NotFiniteError
from vhsbench.harness.config.run import ConfigError, parse
from vhsbench.harness.cost import fast, variants
from vhsbench.harness.cost.variants import VariantError
from vhsbench.harness.sweep.config_changes import difference
from vhsbench.harness.sweep.remade import RemadeError, _check_same
from vhsbench.harness.sweep.run import load_prompts
from vhsbench.harness.sweep.shards import Shard, Worker

VERIFIERS = (
    "verifiers: [{name: vhs}, {name: mllm-clip}], prompts: {source: nano, limit: 8}, pool: 3, threads: 1"
)


def configured(entries: str, more: str = "batch_size: 8"):
    return parse(f"{{generators: [{entries}], {VERIFIERS}, {more}}}", "a test")


@pytest.fixture(scope="module")
def both():
    config = configured("{name: nano}, {name: nano, variant: fast}")
    prompts = load_prompts(config)
    return [Worker(config, prompts, entry) for entry in (0, 1)]


def tables(worker, entry, start, stop):
    return worker.work(Shard("a shard", entry, 0, start, stop)).tables


def test_a_variants_pool_is_the_plain_one_within_rounding_under_its_own_name(both):
    plain, quick = (tables(worker, entry, 0, 4) for entry, worker in enumerate(both))
    assert plain["candidates"]["correct"].tolist() == quick["candidates"]["correct"].tolist()
    assert len(quick["scores"]) == 24
    keys = ["prompt_id", "index", "verifier"]
    pd.testing.assert_frame_equal(plain["scores"][keys], quick["scores"][keys])
    assert np.abs(plain["scores"]["score"] - quick["scores"]["score"]).max() < 1e-5
    assert {*quick["candidates"]["generator"], *quick["scores"]["generator"]} == {"nano+fast"}
    assert {*plain["candidates"]["generator"]} == {"nano"}
    made_by = [worker.identity.inputs["generator"].get("variant", "plain") for worker in both]
    assert made_by == ["plain", "fast"]
    assert both[1].entry.key == "nano+fast"


def test_bytes_of_a_variant_follow_from_the_shard_alone_whatever_was_made_before(both):
    worker = both[1]
    first = [tables(worker, 1, *part) for part in ((0, 4), (4, 8))]
    other = Worker(worker.config, worker.prompts, 1)
    then = [tables(other, 1, *part) for part in ((4, 8), (0, 4))][::-1]
    for one, two in zip(first, then, strict=True):
        for name in ("candidates", "scores", "verdicts"):
            pd.testing.assert_frame_equal(one[name], two[name], check_exact=True)


def test_a_batch_is_filled_up_to_the_next_of_few_sizes_and_the_rest_dropped(both):
    bench = both[1].bench
    assert bench.sizes == [8, 4, 2, 1]
    keys = [(0, 0, 0), (0, 0, 1), (1, 0, 0)]
    noise, rows = bench.generator.noise, []
    bench.generator.noise = lambda seeds: rows.append(len(seeds)) or noise(seeds)
    made, whole = bench.make(keys), bench.make([*keys, keys[-1]])
    bench.generator.noise = noise
    assert rows == [4, 4]
    assert list(made.rows.keys) == keys
    assert len(made.images) == len(made.rows.prompts) == 3
    for needs, block in (("hidden", both[1].bench.verifiers[0].block), ("latents", None)):
        assert torch.equal(made.read(needs, block), whole.read(needs, block)[:3])


def test_a_variant_that_moves_pictures_too_far_is_refused(monkeypatch):
    def negative(generator, verifiers, blocks):
        pixels = generator.pixels
        generator.pixels = lambda latents: -pixels(latents)

    monkeypatch.setattr(fast, "speed_up_pool", negative)
    config = configured("{name: nano, variant: fast}")
    with pytest.raises(
        VariantError, match=r"'fast' moves image_percent of 'nano' by .* more than the 3 that"
    ):
        Worker(config, load_prompts(config), 0)


def test_on_a_gpu_blocks_and_decoder_are_compiled_for_each_size_and_without_timing_kernels(monkeypatch):
    generator, compiled = generators.create("nano"), []
    blocks = variants._blocks(generator, "fast")
    monkeypatch.setattr(torch, "compile", lambda call, **given: compiled.append(given) or call)
    monkeypatch.setattr(type(generator), "device", torch.device("cuda"))
    fast.speed_up_pool(generator, [], blocks)
    assert compiled == (generator.blocks + 1) * [{"dynamic": False, "options": {"deterministic": True}}]


def test_a_torch_whose_code_differs_from_worker_to_worker_is_refused(both, monkeypatch):
    monkeypatch.setattr(fast, "compiles_alike", lambda: False)
    monkeypatch.setattr(type(both[0].generator), "device", torch.device("cuda"))
    with pytest.raises(VariantError, match=r"a pool by variant 'fast' needs torch 2\.10 or later"):
        variants.apply_to_bench("fast", both[0].bench, 8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_two_workers_compile_to_the_same_bytes_in_any_order():
    config = configured("{name: nano, variant: fast}", "batch_size: 8, device: cuda")
    from torch._inductor import config as inductor

    found = []
    for order in (((0, 4), (4, 8)), ((4, 8), (0, 4))):
        torch._dynamo.reset()
        with inductor.patch(force_disable_caches=True):  # compiled anew
            worker = Worker(config, load_prompts(config), 0)
            found.append({part: tables(worker, 0, *part) for part in order})
    assert worker.stream is not None
    for part, made in found[0].items():
        for name in ("candidates", "scores", "verdicts"):
            pd.testing.assert_frame_equal(made[name], found[1][part][name], check_exact=True)


def test_judging_on_a_stream_of_its_own_begins_after_generation_and_ends_before_the_batch_is_freed(
    both, monkeypatch
):
    worker, seen = Worker(configured("{name: nano}", "batch_size: 6, overlap: true"), both[0].prompts, 0), []
    judge = worker._judge

    @contextmanager
    def on(stream):
        seen.append("enter")
        yield
        seen.append("leave")

    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"of {device}")
    worker.stream = SimpleNamespace(
        device="here", wait_stream=lambda other: seen.append(f"wait for that {other}"), synchronize=lambda: seen.append("end")
    )  # fmt: skip
    worker._judge = lambda made: seen.append("judge") or judge(made)
    assert len(tables(worker, 0, 0, 2)["verdicts"]) == 6
    assert seen == ["wait for that of here", "enter", "judge", "end", "leave"]


def test_pictures_come_at_once_as_they_come_one_by_one_and_say_which_is_nan():
    pixels = torch.rand(3, 3, 4, 5) * 2 - 1
    pictures = Pictures.of(pixels, "a generator")
    assert [p.tobytes() for p in pictures] == [pictures[row].tobytes() for row in range(3)]
    pixels[1, 0, 2, 2] = torch.nan
    with pytest.raises(NotFiniteError, match="a generator: the pixels of row 1") as error:
        list(Pictures.of(pixels, "a generator"))
    assert list(error.value.rows) == [1]


def test_another_variant_is_no_setting_and_none_changes_in_a_run():
    with pytest.raises(ConfigError, match=r"generators\.0\.variant"):
        configured("{name: nano, variant: faster}")
    plain, quick = (
        configured(f"{{name: nano, label: mine{variant}}}").model_dump(mode="json")
        for variant in ("", ", variant: fast")
    )
    assert difference(plain, quick) == "generators.0.variant"


def test_pictures_of_a_variants_pool_are_made_again_by_the_plain_generator(both):
    worker = both[1]
    kept = {"nano+fast": worker.identity.inputs}
    run = SimpleNamespace(info={"identity": {"generators": kept}}, path="runs/x")
    _check_same(run, worker.entry, "cpu")  # no picture differs by more than rounding
    kept["nano+fast"]["generator"] = kept["nano+fast"]["generator"] | {"steps": 2}
    with pytest.raises(RemadeError, match="'steps' of generator 'nano\\+fast'"):
        _check_same(run, worker.entry, "cpu")
