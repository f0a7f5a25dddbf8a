"""Texts without their padding: as long as the longest prompt, and nothing that the DiT computes changes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from vhsbench import generators
from vhsbench.generators.prompts import PromptCache
from vhsbench.generators.protocol import Conditioning
from vhsbench.generators.texts import without_padding

PROMPTS = ["a photo of a cat", "a photo of two red dogs, one on top of the other " * 3]


def create(small: Any, name: str) -> Any:
    return generators.create(name, weights=small(name), resolution=64, dtype="float32", device="cpu")


@pytest.mark.parametrize("name", ["sana-sprint", "sana-1.5", "pixart-alpha-dmd"])
@pytest.mark.parametrize("count", [1, 2])
def test_latents_stay_the_same_with_texts_of_few_tokens(small, name, count):
    generator = create(small, name)
    full = generator.encode(PROMPTS[:count])
    before = generator.denoise(full, generator.noise(range(count)))
    tokenizer = generator.pipeline.tokenizer
    without_padding(generator)
    short = generator.encode(PROMPTS[:count])
    assert generator.pipeline.tokenizer is tokenizer
    assert short.prompts == full.prompts
    assert short.tensors.keys() == full.tensors.keys()
    masks = [mask.bool() for key, mask in full.tensors.items() if key.endswith("attention_mask")]
    longest = int(torch.cat(masks).any(0).nonzero().max()) + 1
    for key, tensor in short.tensors.items():
        length = tensor.shape[1]
        assert length % 16 == 0
        assert longest <= length < longest + 16
        assert length < full.tensors[key].shape[1]
        assert torch.equal(tensor, full.tensors[key][:, :length])
    after = generator.denoise(short, generator.noise(range(count)))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-5)


def test_nothing_waits_for_the_device_to_say_how_long_a_text_is(small):
    generator = create(small, "sana-sprint")
    encode, device = generator.encode, "cpu"

    def elsewhere(prompts: list[str]) -> Conditioning:
        cond = encode(prompts)
        return Conditioning(cond.prompts, {name: each.to(device) for name, each in cond.tensors.items()})

    generator.encode = elsewhere
    without_padding(generator)
    device = "meta"  # whose values nobody can read
    assert generator.encode(PROMPTS[:1]).tensors["prompt_embeds"].shape[1] == 16


@pytest.mark.parametrize("name", ["sana-sprint", "sana-1.5", "pixart-alpha-dmd"])
def test_texts_of_other_lengths_are_joined_with_masked_padding(small, name):
    generator = create(small, name)
    expected = generator.denoise(generator.encode(PROMPTS), generator.noise(range(2)))
    without_padding(generator)
    joined = PromptCache(generator).encode(PROMPTS)
    assert joined.tensors["prompt_embeds"].shape == generator.encode(PROMPTS).tensors["prompt_embeds"].shape
    found = generator.denoise(joined, generator.noise(range(2)))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_threads_may_encode_at_the_same_time(small):
    generator = create(small, "sana-sprint")
    tokenizer = generator.pipeline.tokenizer
    without_padding(generator)
    expected = [generator.encode([prompt]).tensors["prompt_embeds"] for prompt in PROMPTS]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda i: generator.encode([PROMPTS[i % 2]]), range(16)))
    for i, cond in enumerate(found):
        assert torch.equal(cond.tensors["prompt_embeds"], expected[i % 2])
    assert generator.pipeline.tokenizer is tokenizer


@pytest.mark.parametrize("name", ["flux-schnell", "sd3.5-turbo"])
def test_a_generator_without_masks_stays_as_it_is(small, name):
    generator = create(small, name)
    without_padding(generator)
    assert "encode" not in vars(generator)


def test_masks_that_are_not_the_tokenizers_are_left_alone(small, monkeypatch):
    generator = create(small, "sana-sprint")
    embeddings = type(generator).embeddings

    def other(self: Any, prompts: list[str], device: torch.device) -> Any:
        found = embeddings(self, prompts, device)
        return {**found, "prompt_attention_mask": torch.ones_like(found["prompt_attention_mask"])}

    monkeypatch.setattr(type(generator), "embeddings", other)
    without_padding(generator)
    assert "encode" not in vars(generator)
