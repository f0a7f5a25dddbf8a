"""Every family in stages against diffusers' own call of the same pipeline folder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vhsbench import generators
from vhsbench.generators.noise import step_generators
from vhsbench.generators.protocol import GeneratorError
from vhsbench.harness.inference.conformance import check_generator

PROMPTS = ["a photo of a red circle", "a photo of two stars", "two blue", "a square of circle"]
SEEDS = [11, 12, 13, 14]
OWN: dict[str, dict[str, Any]] = {
    "sana-sprint": {"guidance_scale": 1.0, "use_resolution_binning": False},
    "sana-1.5": {"guidance_scale": 4.5, "use_resolution_binning": False},
    "pixart-alpha-dmd": {"guidance_scale": 1.0, "timesteps": [400], "use_resolution_binning": False},
    "flux-schnell": {"guidance_scale": 0.0, "max_sequence_length": 256},
    "sd3.5-turbo": {"guidance_scale": 0.0},
}
RESOLUTION = 32
CASES = [("sana-sprint", 1), ("sana-sprint", 2), ("sana-sprint", 4), ("sana-1.5", 1), ("sana-1.5", 4),
         ("pixart-alpha-dmd", 1), ("flux-schnell", 1), ("flux-schnell", 2), ("flux-schnell", 4),
         ("sd3.5-turbo", 1), ("sd3.5-turbo", 3)]  # fmt: skip


def create(small: Any, name: str, **options: Any) -> Any:
    options = {"dtype": "float32", "resolution": RESOLUTION} | options
    return generators.create(name, weights=small(name), **options)


def own_call(generator: Any, name: str, steps: int, batch: int, noise: torch.Tensor) -> np.ndarray:
    """The pipeline's call for PROMPTS; each candidate's noise comes from torch's generator of its seed."""
    options = dict(OWN[name])
    if name == "sana-sprint":
        options["intermediate_timesteps"] = 1.3 if steps == 2 else None
    if name == "sana-sprint" and steps > 1:
        options |= {"latents": noise, "generator": step_generators(noise)}
    else:
        options["generator"] = [torch.Generator().manual_seed(s) for s in SEEDS[:batch]]
    images = generator.pipeline(
        PROMPTS[:batch], num_inference_steps=steps, height=RESOLUTION, width=RESOLUTION, output_type="np",
        **options,
    ).images  # fmt: skip
    return np.asarray(images)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(("name", "steps"), CASES)
def test_every_split_gives_the_pixels_of_the_pipelines_own_call(small, name, steps, batch):
    generator = create(small, name, steps=steps)
    cond, noise = generator.encode(PROMPTS[:batch]), generator.noise(SEEDS[:batch])
    theirs = own_call(generator, name, steps, batch, noise)
    assert theirs.std() > 0.01
    whole = generator.denoise(cond, noise)
    for block in range(generator.blocks):
        hidden = generator.head(cond, noise, block)
        assert hidden.features.shape == (batch, generator.info().tokens, generator.info().hidden_width)
        assert len(hidden.step_outputs) == (steps - 1) * (2 if generator.guided else 1)
        latents = generator.tail(hidden)
        assert torch.equal(latents, whole), block
    ours = generator.pipeline.image_processor.postprocess(generator.pixels(latents), output_type="np")
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
    first = np.asarray(generator.decode(latents)[0])
    np.testing.assert_array_equal(first, (theirs[0] * 255).round().astype("uint8"))


@pytest.mark.parametrize(("name", "steps"), CASES)
def test_a_candidate_does_not_depend_on_its_batch(small, name, steps):
    generator = create(small, name, steps=steps)
    cond, noise = generator.encode(PROMPTS), generator.noise(SEEDS)
    block = generator.blocks // 2
    together = generator.head(cond, noise, block)
    alone = generator.head(cond.select([2]), generator.noise([SEEDS[2]]), block)
    torch.testing.assert_close(together.features[2:3], alone.features, atol=1e-4, rtol=1e-4)
    whole = generator.tail(together)
    for hidden in (alone, together.select([2])):
        torch.testing.assert_close(generator.tail(hidden), whole[2:3], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("name", "steps"), CASES)
def test_every_rule_of_the_protocol_holds(small, name, steps):
    findings = check_generator(create(small, name, steps=steps))
    assert [finding.line for finding in findings if finding.outcome != "holds"] == []


@pytest.mark.parametrize(("name", "steps"), CASES)
def test_the_mean_of_blocks_is_read_in_one_pass_and_continues_from_the_last(small, name, steps):
    generator = create(small, name, steps=steps)
    cond, noise = generator.encode(PROMPTS[:2]), generator.noise(SEEDS[:2])
    blocks = (0, generator.blocks - 1)
    hidden = generator.head(cond, noise, blocks)
    each = [generator.head(cond, noise, block).features for block in blocks]
    assert not torch.equal(*each)
    torch.testing.assert_close(hidden.features, (each[0] + each[1]) / 2)
    assert torch.equal(generator.tail(hidden), generator.denoise(cond, noise))
    assert torch.equal(hidden.select([1]).features, hidden.features[1:])


@pytest.mark.parametrize(("name", "steps"), CASES)
def test_advance_is_the_later_head_bit_for_bit(small, name, steps):
    generator = create(small, name, steps=steps)
    cond, noise = generator.encode(PROMPTS[:2]), generator.noise(SEEDS[:2])
    last = generator.blocks - 1
    for block in range(last):
        hidden = generator.head(cond, noise, block)
        for later in (*range(block + 1, last + 1), *([(block + 1, last)] if block + 1 < last else [])):
            there, direct = generator.advance(hidden, later), generator.head(cond, noise, later)
            assert torch.equal(there.features, direct.features)
            assert torch.equal(generator.tail(there), generator.tail(direct))
    with pytest.raises(GeneratorError, match="nothing goes back"):
        generator.advance(generator.head(cond, noise, 1), 1)


def test_tail_computes_no_step_twice(small):
    generator = create(small, "flux-schnell", steps=4)
    cond, noise = generator.encode(PROMPTS[:1]), generator.noise(SEEDS[:1])
    hidden = generator.head(cond, noise, 1)
    ran = []
    blocks = [*generator.pipeline.transformer.transformer_blocks,
              *generator.pipeline.transformer.single_transformer_blocks]  # fmt: skip
    hooks = [b.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, b in enumerate(blocks)]
    generator.tail(hidden)
    for hook in hooks:
        hook.remove()
    assert ran == [2, 3]


def test_guided_features_are_the_conditional_half(small):
    generator = create(small, "sana-1.5", steps=1)
    cond, noise = generator.encode(PROMPTS[:2]), generator.noise(SEEDS[:2])
    guided = generator.head(cond, noise, 1).features
    unguided = create(small, "sana-1.5", steps=1, guidance_scale=1.0)
    plain = unguided.head(unguided.encode(PROMPTS[:2]), noise, 1).features
    torch.testing.assert_close(guided, plain, atol=1e-5, rtol=1e-5)


def test_a_failed_split_leaves_the_model_as_it_was(small):
    generator = create(small, "flux-schnell", steps=2)
    cond, noise = generator.encode(PROMPTS[:1]), generator.noise(SEEDS[:1])
    before = generator.denoise(cond, noise)
    hidden = generator.head(cond, noise, 3)
    generator.tail(hidden)
    with pytest.raises(Exception, match=r"shape|size|match"):
        generator.tail(generator.head(cond, noise[:, :, :4], 3))
    assert torch.equal(generator.denoise(cond, noise), before)
    assert "forward" not in vars(generator.pipeline.transformer)
    assert len(generator.pipeline.transformer.transformer_blocks) == 2
