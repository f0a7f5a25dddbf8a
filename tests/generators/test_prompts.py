from __future__ import annotations

import torch

from vhsbench.generators.prompts import PromptCache
from vhsbench.generators.protocol import Conditioning


class Counting:
    device = torch.device("cpu")

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, prompts):
        self.encoded += prompts
        return Conditioning(tuple(prompts), {"e": torch.tensor([[float(len(p))] for p in prompts])})


def test_a_prompt_is_encoded_once():
    generator = Counting()
    cache = PromptCache(generator)
    cache.encode(["a", "bb"])
    found = cache.encode(["bb", "ccc", "a", "bb"])
    assert generator.encoded == ["a", "bb", "ccc"]
    assert found.prompts == ("bb", "ccc", "a", "bb")
    assert found.tensors["e"].flatten().tolist() == [2, 3, 1, 2]


def test_the_least_recently_used_prompt_goes_first():
    generator = Counting()
    cache = PromptCache(generator, capacity=2)
    cache.encode(["a", "bb", "a", "ccc"])
    assert ("a" in cache, "bb" in cache, len(cache)) == (True, False, 2)


def test_it_is_what_the_generator_encodes(nano):
    prompts = ["a photo of a red circle", "a photo of two stars"]
    cached, own = PromptCache(nano).encode(prompts), nano.encode(prompts)
    for name, tensor in own.tensors.items():
        torch.testing.assert_close(cached.tensors[name], tensor, atol=1e-4, rtol=1e-4)
