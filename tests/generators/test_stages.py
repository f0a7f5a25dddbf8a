"""The stage protocol on nano: splitting changes nothing, and noise belongs to its candidate."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vhsbench.generators.noise import candidate_seed, gaussian

PROMPTS = ["a photo of a red circle", "a photo of two stars", "a photo of a ring left of a heart"]


@pytest.mark.parametrize("batch", [1, 3])
def test_tail_of_head_is_the_whole_forward_for_every_block(nano, batch):
    cond = nano.encode(PROMPTS[:batch])
    noise = nano.noise(range(batch))
    whole = nano.denoise(cond, noise)
    for block in range(nano.blocks):
        assert torch.equal(nano.tail(nano.head(cond, noise, block)), whole), block


def test_stages_give_the_pixels_of_the_pipelines_own_call(nano):
    noise = nano.noise([5, 6])
    ours = nano.decode(nano.tail(nano.head(nano.encode(PROMPTS[:2]), noise, 2)))
    theirs = nano.pipeline(
        PROMPTS[:2],
        num_inference_steps=1,
        intermediate_timesteps=None,
        guidance_scale=1.0,
        height=64,
        width=64,
        latents=noise,
        max_sequence_length=16,
        complex_human_instruction=None,
        use_resolution_binning=False,
    ).images
    assert [i.tobytes() for i in ours] == [i.tobytes() for i in theirs]


def test_a_selected_row_continues_as_it_would_have(nano):
    hidden = nano.head(nano.encode(PROMPTS), nano.noise([1, 2, 3]), 2)
    alone = nano.tail(hidden.select([1]))
    torch.testing.assert_close(alone, nano.tail(hidden)[1:2], atol=1e-4, rtol=1e-4)


def test_the_split_leaves_the_model_as_it_was(nano):
    before = list(nano.pipeline.transformer.transformer_blocks)
    cond, noise = nano.encode(PROMPTS[:1]), nano.noise([0])
    nano.tail(nano.head(cond, noise, 4))
    assert list(nano.pipeline.transformer.transformer_blocks) == before
    assert not any(block._forward_hooks for block in before)


@pytest.mark.parametrize("block", [-1, 8, (2, 8)])
def test_a_block_out_of_range_is_refused(nano, block):
    with pytest.raises(ValueError, match="the DiT has blocks 0 to 7"):
        nano.head(nano.encode(PROMPTS[:1]), nano.noise([0]), block)


def test_blocks_out_of_order_are_refused(nano):
    with pytest.raises(ValueError, match=r"ascending order, each once, not \(5, 3\)"):
        nano.head(nano.encode(PROMPTS[:1]), nano.noise([0]), (5, 3))


def test_noise_of_a_candidate_does_not_depend_on_its_batch(nano):
    together = nano.noise([7, 8, 9])
    assert torch.equal(together[1:2], nano.noise([8]))
    assert not torch.equal(together[0], together[1])


def test_gaussian_is_standard_normal():
    sample = gaussian(range(64), (16, 8, 8))
    assert abs(sample.mean()) < 0.01
    assert abs(sample.std() - 1) < 0.01


@given(st.integers(0, 2**40), st.integers(0, 10**6), st.integers(0, 10**4))
@settings(max_examples=50)
def test_candidate_seeds_are_distinct_and_fit_torch(root, prompt_id, index):
    seed = candidate_seed(root, prompt_id, index)
    assert 0 <= seed < 2**63
    assert seed == candidate_seed(root, prompt_id, index)
    assert seed != candidate_seed(root, prompt_id, index + 1)
    assert seed != candidate_seed(root, prompt_id + 1, index)
    assert seed != candidate_seed(root + 1, prompt_id, index)
