"""A verifier that keeps what is the same for all candidates: for the variant `fast`.

The text's ids of a prompt, keys and values of the question before the image and rotary tables are computed once, and
CLIP reads pictures where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention

from vhsbench.generators.pictures import Pictures
from vhsbench.verifiers.clip import ClipPatches, OpenClipPatches

if TYPE_CHECKING:
    from PIL import Image

    from vhsbench.verifiers.mllm import Mllm
    from vhsbench.verifiers.verifier import MllmVerifier

_PROMPTS = 16  # whose ids are kept
_ROOM = 1024  # positions of the rotary tables beyond the question's beginning and the image
_ATTENTION = "vhsbench-after-the-beginning"


def keep(verifier: MllmVerifier) -> None:
    """Change a verifier in place; a second call changes nothing. Scores stay the same up to rounding."""
    if "text" in vars(verifier):
        return
    changed: Any = verifier
    text = lru_cache(_PROMPTS)(verifier.text)
    changed.text = lambda prompts: text(tuple(prompts))
    before = torch.tensor(verifier.question.before_ids, device=verifier.device)
    if len(before):
        changed.model.read = Prefixed(verifier.model, before, verifier.card.visual_tokens)
    if isinstance(verifier.tokens, ClipPatches | OpenClipPatches):
        tower: Any = verifier.tokens
        tower.pixels = _pixels(tower, tower.pixels)


class Prefixed:
    """Stands for `Mllm.read`, with the keys and values of the ids `before` the image computed once.

    It returns the states after them alone, [B, T + a, H]. States before the image's last token lack the last layer's MLP,
    since no answer comes there. From then on the LLM reads everything as what follows the ids before the image.
    """

    def __init__(self, model: Mllm, before: torch.Tensor, visual_tokens: int) -> None:
        from transformers import AttentionInterface

        self._model, self._visual_tokens = model, visual_tokens
        llm: Any = model.llm.model
        with torch.inference_mode():
            embedded = model.llm.get_input_embeddings()(before)[None]
            output = llm(inputs_embeds=embedded, attention_mask={"full_attention": None}, use_cache=True)
            cache = output.cache if "cache" in output else output.past_key_values
            for layer, found in zip(llm.layers, cache.layers, strict=True):
                layer.self_attn.keys_before, layer.self_attn.values_before = found.keys, found.values
            llm.rotary_emb = _Rotary(
                llm.rotary_emb, embedded, len(before), len(before) + visual_tokens + _ROOM
            )
        AttentionInterface.register(_ATTENTION, _attend)
        llm.set_attn_implementation(_ATTENTION)
        llm.layers[-1].mlp = FromPosition(llm.layers[-1].mlp, visual_tokens - 1)

    def __call__(self, before: torch.Tensor, projected: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        if projected.shape[1] != self._visual_tokens:
            raise ValueError(
                f"{projected.shape[1]} visual tokens, not the {self._visual_tokens} of the verifier's card"
            )
        embed = self._model.llm.get_input_embeddings()
        sequence = torch.cat([projected, embed(after)], dim=1).to(projected.dtype)
        return self.compute(sequence)

    def compute(self, sequence: torch.Tensor) -> torch.Tensor:
        """Compute the states of embeddings [B, S, H] that follow the question's beginning."""
        output = self._model.llm.model(
            inputs_embeds=sequence, attention_mask={"full_attention": None}, use_cache=False
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden


class FromPosition(torch.nn.Module):
    """Computes `module` from the position `start` of states [B, S, H] on; before it the result is zeros."""

    def __init__(self, module: torch.nn.Module, start: int) -> None:
        super().__init__()
        self.module, self.start = module, start

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return pad(self.module(states[:, self.start :]), (0, 0, self.start, 0))


def _attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *_: Any,
    scaling: float,
    **__: Any,
) -> tuple[torch.Tensor, None]:
    """Attend from the last S of L positions to all before them, as transformers asks of an attention.

    The queries of the positions before are zeros, whose result is dropped: a mask, or a causal one that is not
    square, would keep torch from its fastest kernels.
    """
    before = module.keys_before.shape[2]
    zeros = query.new_zeros(1, query.shape[1], before, query.shape[3])
    found = scaled_dot_product_attention(
        _after(zeros, query),
        _after(module.keys_before, key),
        _after(module.values_before, value),
        is_causal=True,
        scale=scaling,
        enable_gqa=True,
    )
    return found[:, :, before:].transpose(1, 2), None


def _after(before: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Return [1, heads, b, D] and [B, heads, S, D] as one, with a position's heads side by side as kernels want them."""
    every = before.expand(len(states), -1, -1, -1)
    return torch.cat([every.transpose(1, 2), states.transpose(1, 2)], dim=1).transpose(1, 2)


class _Rotary(torch.nn.Module):
    """Tables of cosines and sines [1, positions, D] from `start` on, as the module that it stands for computes them."""

    def __init__(self, computes: Any, like: torch.Tensor, start: int, positions: int) -> None:
        super().__init__()
        every = torch.arange(start, positions, device=like.device)[None]
        self.cos, self.sin = computes(like, every)

    def forward(self, _: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        length = position_ids.shape[1]
        return self.cos[:, :length], self.sin[:, :length]


def _pixels(
    tower: ClipPatches | OpenClipPatches, from_images: Callable[[Sequence[Image.Image]], torch.Tensor]
) -> Callable[[Sequence[Image.Image]], torch.Tensor]:
    """Return what prepares Pictures for CLIP on their device, and other images as before."""
    size, means, deviations = tower.normal
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (means, deviations))

    def pixels(images: Sequence[Image.Image]) -> torch.Tensor:
        if not isinstance(images, Pictures) or images.levels.shape[-1] != images.levels.shape[-2]:
            return from_images(images)
        levels = images.levels.float()
        if levels.shape[-1] != size:  # as PIL resizes bytes
            levels = interpolate(levels, (size, size), mode="bicubic", antialias=True).round().clamp(0, 255)
        nonlocal mean, deviation
        mean, deviation = mean.to(levels.device), deviation.to(levels.device)
        return (levels / 255 - mean) / deviation

    return pixels
