"""The variant `fast`: the plain pipeline's results, in batches, without waiting for the device."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from vhsbench import generators, verifiers
from vhsbench.generators.pictures import Pictures, without_waiting
from vhsbench.generators.protocol import NotFiniteError
from vhsbench.harness.cost import fast, variants
from vhsbench.harness.cost.graphs import CaptureError, Graphed
from vhsbench.harness.cost.measure import Cell
from vhsbench.harness.cost.rounds import measure
from vhsbench.harness.cost.timing import TimingConfig
from vhsbench.harness.inference import best_of_n as loop
from vhsbench.harness.inference.best_of_n import best_of_n
from vhsbench.verifiers import kept
from vhsbench.verifiers.kept import Prefixed, _pixels

PROMPT = "a photo of a red heart"


@pytest.fixture
def no_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")


@pytest.mark.parametrize("kind", ["vhs", "mllm-clip", "mllm-ae"])
def test_fast_chooses_as_the_plain_pipeline_does(no_compiler, kind):
    generator, verifier = generators.create("nano"), verifiers.create(kind)
    # in the same batches: of other sizes the plain pipeline's own rounding moves a pixel by a level
    plain = {
        prompt: best_of_n(generator, verifier, prompt, range(6), 4) for prompt in (PROMPT, "two blue stars")
    }
    moved, remarks = variants.apply("fast", generator, verifier, [PROMPT])
    assert moved["features_percent"] < 1e-3
    assert remarks == [
        "fast without compiling: torch.compile needs a C++ compiler on a CPU, and there is no 'no-such-compiler' "
        "(CXX names another)"
    ]
    assert isinstance(verifier.model.read, Prefixed)
    for prompt, before in plain.items():
        found = best_of_n(generator, verifier, prompt, range(6), 4)
        assert found.index == before.index
        torch.testing.assert_close(found.scores, before.scores, rtol=0, atol=1e-5)
        assert np.abs(np.array(found.image, int) - np.array(before.image, int)).max() <= 1
    assert set(verifier.parts([PROMPT], verifier_reads(generator, verifier))) >= {"connector", "llm"}


def test_attention_after_the_kept_beginning_is_causal_and_square(monkeypatch):
    """As a GPU's fastest kernels want it: no mask, as many queries as keys."""
    plain, verifier = verifiers.create("vhs"), verifiers.create("vhs")
    shapes = []

    def attend(query, key, value, **options):
        shapes.append((query.shape[2], key.shape[2], options["is_causal"], "attn_mask" in options))
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, **options)

    monkeypatch.setattr(kept, "scaled_dot_product_attention", attend)
    kept.keep(verifier)
    features = torch.randn(2, plain.card.visual_tokens, plain.card.feature_width)
    prompts = [PROMPT, "two blue stars"]
    found, expected = (v.score(prompts, features).score for v in (verifier, plain))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    beginning, after = len(plain.question.before_ids), plain.question.after_ids(prompts)[0].shape[1]
    length = beginning + plain.card.visual_tokens + after
    assert shapes == [(length, length, True, False)] * len(plain.model.llm.model.layers)


def test_the_last_layer_computes_where_an_answer_can_be_and_no_further():
    plain, verifier = verifiers.create("vhs"), verifiers.create("vhs")
    kept.keep(verifier)
    read = verifier.model.read
    kept.keep(verifier)
    assert verifier.model.read is read  # once is enough
    rows = []
    mlp = verifier.model.llm.model.layers[-1].mlp.module
    mlp.down_proj.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[1]))
    features = torch.randn(2, plain.card.visual_tokens, plain.card.feature_width)
    # lengths differ
    for prompts in ([PROMPT, "two blue stars"], ["a star", "two blue stars and a red heart"]):
        found, expected = (v.score(prompts, features).score for v in (verifier, plain))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert rows.pop() == plain.question.after_ids(prompts)[0].shape[1] + 1
    with pytest.raises(ValueError, match="63 visual tokens, not the 64 of the verifier's card"):
        verifier.score([PROMPT, PROMPT], features[:, :63])


def test_fast_reads_no_padding_of_texts(no_compiler, monkeypatch):
    changed = []
    monkeypatch.setattr(fast, "without_padding", changed.append)
    generator, verifier = generators.create("nano"), verifiers.create("vhs")
    variants.make("fast", generator, verifier)
    assert changed == [generator]
    fast.speed_up(generator, verifier, [], ("pictures",))
    fast.speed_up_pool(generator, [], [])  # whose bytes would follow from the prompts of a batch
    assert len(changed) == 1


def verifier_reads(generator, verifier):
    route = loop.route_of(verifier)
    return route.reads(route.start(generator, generator.encode([PROMPT]), [0]))


def test_all_that_is_worth_it_is_compiled(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda f, dynamic: compiled.append(f) or f)
    monkeypatch.setattr(fast, "no_compiler", lambda device: "")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    generator, verifier = generators.create("nano"), verifiers.create("mllm-clip")
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):  # restores them
        assert variants.apply("fast", generator, verifier, [PROMPT])[1] == []
    layers = [*verifier.model.llm.model.layers, *verifier.tokens.model.transformer.resblocks]
    assert [f.__self__ for f in compiled[generator.blocks :]] == [*layers, generator.pipeline.vae.decoder]
    assert len(layers) > 2


def test_compiling_what_is_fewer_leaves_the_limit_of_what_is_more(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        for blocks in (48, 20):
            fast.compile_each([], blocks)
        assert torch._dynamo.config.recompile_limit == 48 * fast._MOST_SIZES


def test_a_text_encoder_that_cannot_be_captured_stays_as_it_was_and_other_failures_are_raised(monkeypatch):
    generator = SimpleNamespace(modules=lambda: {"text_encoder": encoder})
    encoder = SimpleNamespace(forward=len, config=SimpleNamespace(use_cache=True))
    encoder.parameters = lambda: iter([SimpleNamespace(is_cuda=True)])
    for error, found in (
        (CaptureError("not permitted"), "not permitted"),
        (RuntimeError("shapes differ"), None),
        (torch.OutOfMemoryError("CUDA out of memory"), None),
    ):

        def encode(prompts, error=error):
            raise error

        generator.encode, encoder.forward = encode, len
        if found is None:
            with pytest.raises(RuntimeError, match=str(error)):
                fast._graph_encoders(generator)
        else:
            assert fast._graph_encoders(generator) == found
            assert encoder.forward is len


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (RuntimeError("operation failed due to a previous error during capture"), CaptureError),
        (torch.OutOfMemoryError("out of memory during capture"), torch.OutOfMemoryError),
        (KeyboardInterrupt("during capture"), KeyboardInterrupt),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_capture_that_fails_leaves_the_stream_and_no_generator_that_captures(monkeypatch, error, raised):
    done = []
    state = SimpleNamespace(clone_state=lambda: "a copy", graphsafe_set_state=done.append)
    current = SimpleNamespace(wait_stream=lambda other: None, device_index=1)

    @contextmanager
    def capturing(graph, pool):
        yield
        raise error

    for name, value in {
        "Stream": lambda: current, "current_stream": lambda: current, "stream": lambda stream: nullcontext(),
        "CUDAGraph": object, "graph": capturing, "set_stream": done.append, "default_generators": (None, state),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    with pytest.raises(raised, match="during capture") as caught:
        Graphed(lambda x: x)(torch.ones(2))
    assert caught.type is raised
    assert done == [current, "a copy"]


def test_noise_drawn_by_threads_is_the_plain_one_bit_for_bit():
    generator = generators.create("nano")
    plain = generator.noise(range(9))
    without_waiting(generator)
    assert generator.noise(range(9)).equal(plain)
    with torch.inference_mode():
        assert generator.noise([5]).equal(plain[5:6])


def test_tf32_is_on_within_a_call_alone():
    seen = []

    def fails(x, *, by):
        seen.append((torch.get_float32_matmul_precision(), x, by))
        raise KeyError

    before = torch.get_float32_matmul_precision()
    with pytest.raises(KeyError):
        fast.with_tf32(fails)(1, by=2)
    assert seen == [("high", 1, 2)]
    assert torch.get_float32_matmul_precision() == before == "highest"


@pytest.mark.parametrize(("rows", "calls"), [(1, [1]), (5, [8]), (19, [8, 8, 1, 1, 1]), (16, [8, 8])])
def test_images_are_decoded_in_groups_of_one_size(rows, calls):
    sizes = []
    generator = SimpleNamespace(pixels=lambda latents: sizes.append(len(latents)) or 2 * latents)
    fast.decode_in_groups(generator)
    latents = torch.arange(rows * 4.0).reshape(rows, 1, 2, 2)
    assert torch.equal(generator.pixels(latents), 2 * latents)
    assert sizes == calls


def test_rows_of_fast_are_cells_of_their_own_in_batches_that_memory_allows(no_compiler):
    timing = TimingConfig(best_of_n=(1, 3), repeats=1, warm_up=0)
    measured = measure(Cell("nano", {}, "vhs", {}, PROMPT, timing, variant="fast"))
    rows = pd.DataFrame(measured.rows)
    whole = rows[rows["stage"] == "end_to_end"]
    assert set(zip(whole["variant"], whole["n"], whole["batch"], strict=True)) == {
        ("fast", 1, 1), ("fast", 3, 1), ("fast+batched", 3, 3)
    }  # fmt: skip
    assert whole["note"].str.contains("no 'no-such-compiler'").all()
    first = measured.about["first_use"]
    assert first["compile_s"] > 0
    assert first["compile_batches_s"] > 0


def test_the_batch_is_the_largest_that_memory_allows(monkeypatch):
    def hungry(generator, verifier, prompt, seeds, batch):
        if batch > 8:
            raise MemoryError

    monkeypatch.setattr(loop, "best_of_n", hungry)
    assert fast.batch_by_memory(None, "a verifier", PROMPT) == 8
    assert fast.batches(None, "a verifier", PROMPT, (1, 2, 9, 32)) == {2, 8}


def test_a_variant_that_moves_results_too_far_is_refused(monkeypatch):
    def spoil(generator, verifier):
        decoder = generator.pipeline.vae.decoder
        decoder.forward = lambda *args, forward=decoder.forward: forward(*args) * 0.8

    monkeypatch.setitem(variants.VARIANTS, "channels-last", spoil)
    with pytest.raises(
        variants.VariantError, match=r"moves image_percent of 'nano' by .*, more than the 3 that"
    ):
        variants.apply("channels-last", generators.create("nano"), None, [PROMPT])


def test_a_variant_is_compared_on_several_candidates_of_several_prompts(monkeypatch):
    def spoil(generator, verifier):
        read = verifier.tokens
        verifier.tokens = lambda x: read(x) * torch.where(torch.arange(len(x)) == 5, 1.5, 1.0)[:, None, None]

    seen = []
    generator, verifier = generators.create("nano"), verifiers.create("vhs")
    visual = verifier.visual
    verifier.visual = lambda prompts, x: seen.append((prompts[0], len(x))) or visual(prompts, x)
    monkeypatch.setitem(variants.VARIANTS, "fast", spoil)
    with pytest.raises(
        variants.VariantError, match="moves features_percent of 'nano' by 50, more than the 3 that"
    ):
        variants.apply("fast", generator, verifier, [PROMPT, "two blue stars"], batch=variants.CANDIDATES)
    assert [seen.count((PROMPT, n)) for n in (1, 8)] == [seen.count(("two blue stars", n)) for n in (1, 8)]
    assert set(seen) == {(p, n) for p in (PROMPT, "two blue stars") for n in (1, 8)}


@pytest.mark.parametrize("changed", [0, 1, 2, 32])
def test_few_scores_may_change_and_no_more(changed):
    before = {"score": torch.linspace(-1, 1, 32)}
    after = {"score": before["score"] + torch.where(torch.arange(32) < changed, 1.01, 0.04)}
    generator = SimpleNamespace(name="nano")
    if changed > 1:  # of 32: 6.25%
        message = (
            f"moves the scores of {changed / 0.32:.3g}% of the candidates of 'nano' by more than 0.05; of 5%"
        )
        with pytest.raises(variants.VariantError, match=message):
            variants.compare("fast-fp8", generator, before, after)
    else:
        moved = variants.compare("fast-fp8", generator, before, after)
        assert moved["scores_changed_percent"] == pytest.approx(changed / 0.32)
        assert moved["score_difference"] == pytest.approx(1.01 if changed else 0.04)
    after["score"][:2] = torch.nan  # as far off as can be
    with pytest.raises(variants.VariantError, match="moves the scores"):
        variants.compare("fast-fp8", generator, before, after)


def test_pictures_are_rounded_as_diffusers_does_and_nan_is_refused():
    from diffusers.image_processor import VaeImageProcessor

    pixels = torch.randn(3, 3, 16, 16)
    expected = VaeImageProcessor().postprocess(pixels, output_type="pil")
    found = Pictures.of(pixels, "nano")
    assert [np.array(a).tolist() for a in found] == [np.array(b).tolist() for b in expected]
    assert np.array_equal(found[1:2][0], expected[1])
    pixels[1, 0, 0, 0] = torch.nan
    odd = Pictures.of(pixels, "nano")
    assert odd[0].size == (16, 16)
    with pytest.raises(NotFiniteError, match="row 1 of the batch"):
        odd[1]


def test_clip_reads_pictures_as_pil_prepares_them():
    drawn = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(drawn, (96, 96), mode="bicubic").clamp(0, 1) * 2 - 1
    pictures = Pictures.of(smooth, "nano")
    read = _pixels(SimpleNamespace(normal=(36, [0.5] * 3, [0.25] * 3)), lambda images: "as before")
    resized = np.stack([np.array(p.resize((36, 36), Image.Resampling.BICUBIC), float) for p in pictures])
    expected = (torch.from_numpy(resized).permute(0, 3, 1, 2) / 255 - 0.5) / 0.25
    off = 255 * 0.25 * (read(pictures) - expected).abs()
    assert off.max() < 2.01  # levels: PIL rounds after each of its two passes
    assert off.mean() < 0.2
    assert read(list(pictures)) == "as before"
