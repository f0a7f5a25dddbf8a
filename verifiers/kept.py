"""A verifier that keeps what is the same for all candidates: for the variant `fast`.

The text's ids of a prompt, keys and values of the question before the image, rotary tables and attention masks are
computed once, and CLIP reads pictures where they are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import interpolate

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
    """Change a verifier in place. Its scores stay the same up to rounding."""
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

    It returns the states after them alone, [B, T + a, H].
    """

    def __init__(self, model: Mllm, before: torch.Tensor, visual_tokens: int) -> None:
        self._model, self._length = model, len(before)
        llm: Any = model.llm.model
        self._cache_name = (
            "cache" if "cache" in inspect.signature(llm.forward).parameters else "past_key_values"
        )
        with torch.inference_mode():
            embedded = model.llm.get_input_embeddings()(before)[None]
            output = llm(inputs_embeds=embedded, attention_mask={"full_attention": None}, use_cache=True)
            self._layers = [(each.keys, each.values) for each in getattr(output, self._cache_name).layers]
            llm.rotary_emb = _Rotary(
                llm.rotary_emb, embedded, self._length, self._length + visual_tokens + _ROOM
            )
        self._masks: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        if _flash_fits(embedded, llm.config):
            from transformers import AttentionInterface

            AttentionInterface.register(_ATTENTION, _attend)
            llm.set_attn_implementation(_ATTENTION)

    def __call__(self, before: torch.Tensor, projected: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        embed = self._model.llm.get_input_embeddings()
        sequence = torch.cat([projected, embed(after)], dim=1).to(projected.dtype)
        return self.compute(sequence, *self._mask(sequence.shape[1], sequence.device))

    def compute(self, sequence: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Compute the states of embeddings [B, S, H] that follow the question's beginning."""
        from transformers import DynamicCache

        rows = len(sequence)
        cache = DynamicCache(
            [(k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1)) for k, v in self._layers]
        )
        output = self._model.llm.model(
            inputs_embeds=sequence,
            attention_mask={"full_attention": mask},
            position_ids=positions,
            use_cache=False,
            **{self._cache_name: cache},
        )
        hidden: torch.Tensor = output.last_hidden_state
        return hidden

    def _mask(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return who attends to whom [1, 1, S, b + S], and the positions [1, S]."""
        if length not in self._masks:
            whole = self._length + length
            seen = torch.ones(length, whole, dtype=torch.bool, device=device).tril(self._length)
            self._masks[length] = seen[None, None], torch.arange(self._length, whole, device=device)[None]
        return self._masks[length]


def _flash_fits(states: torch.Tensor, config: Any) -> bool:
    """Return whether flash attention computes with such states: a mask would forbid it, at half its speed or less."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    half = states.dtype in (torch.bfloat16, torch.float16)
    return states.device.type == "cuda" and half and head % 8 == 0 and head <= 256


def _attend(
    _: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *__: Any, scaling: float, **___: Any
) -> tuple[torch.Tensor, None]:
    """Attend from the last S of L positions to all before them, as transformers asks of an attention."""
    return _flash(query, key, value, scaling).transpose(1, 2), None


def _flash(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """Compute [B, heads, S, D] of keys and values [B, fewer heads, L, D]; its causal mask ends at the last position."""
    found: torch.Tensor = torch.ops.aten._scaled_dot_product_flash_attention(
        query, key, value, 0.0, True, scale=scaling
    )[0]
    return found


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
