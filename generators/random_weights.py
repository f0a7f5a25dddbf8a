"""Random weights of the true architectures: the cost of a stage does not depend on the weights' values."""

from __future__ import annotations

import functools
import json
import re
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import nn

CONFIGS = Path(__file__).parent / "configs"

_PIECE = re.compile(r"\w+|[^\w\s]")


class HashTokenizer:
    """Stands in for a missing tokenizer: one id per word or sign, from its hash.

    Called as diffusers' pipelines call a tokenizer, and padded to the true sequence length, so that
    encoding has its true cost.
    """

    padding_side = "right"
    added_tokens_encoder: ClassVar[dict[str, int]] = {}

    def __init__(self, vocabulary: int, model_max_length: int) -> None:
        self.vocabulary = vocabulary
        self.model_max_length = model_max_length

    def tokenize(self, text: str) -> list[str]:
        return _PIECE.findall(text)

    def encode(self, text: str) -> list[int]:
        """Return one id per piece, from 3 up, and an end (2)."""
        return [3 + zlib.crc32(p.encode()) % (self.vocabulary - 3) for p in self.tokenize(text)] + [2]

    def __call__(
        self, prompts: Sequence[str], padding: str, max_length: int | None = None, **_: Any
    ) -> SimpleNamespace:
        ids = [self.encode(p)[:max_length] for p in ([prompts] if isinstance(prompts, str) else prompts)]
        longest = max(map(len, ids))
        length = max_length if padding == "max_length" and max_length else longest
        rows = [i + [0] * (length - len(i)) for i in ids]
        mask = [[1] * len(i) + [0] * (length - len(i)) for i in ids]
        return SimpleNamespace(input_ids=torch.tensor(rows), attention_mask=torch.tensor(mask))

    def batch_decode(self, ids: torch.Tensor) -> list[str]:
        return [" ".join(map(str, row)) for row in ids.tolist()]


def build(name: str, device: torch.device, dtype: torch.dtype, seed: int, text_device: torch.device) -> Any:
    """Build the diffusers pipeline of generators/configs/<name>.json with random weights.

    Parameters are created on the device in `dtype`, with no copy elsewhere; on "meta" they take no memory.
    """
    import diffusers

    config = json.loads((CONFIGS / f"{name}.json").read_text(encoding="utf-8"))
    parts: dict[str, Any] = {}
    for part, (library, class_name, settings) in config["components"].items():
        if library == "tokenizer":
            parts[part] = HashTokenizer(**settings)
        elif part == "scheduler":
            parts[part] = getattr(diffusers, class_name).from_config(settings)
        else:
            place = text_device if part.startswith("text_encoder") else device
            # on meta nothing is computed, not even the tables of positions (1.4 GB of them in SD3.5)
            with place if place.type == "meta" else nullcontext():
                module = empty_module(library, class_name, settings)
            fill(module, place, dtype, seed)
            if library == "transformers" and place.type == "meta":
                module.register_forward_pre_hook(_without_mask, with_kwargs=True)
            parts[part] = module
    pipeline = getattr(diffusers, config["pipeline"])(**parts)
    pipeline.set_progress_bar_config(disable=True)
    if device.type == "meta":
        _schedule_without_values(pipeline.scheduler)
    return pipeline


def empty_module(library: str, class_name: str, settings: dict[str, Any]) -> nn.Module:
    """Build a diffusers or transformers model whose parameters are on meta and whose buffers are real."""
    import diffusers
    import transformers
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        if library == "diffusers":
            module = getattr(diffusers, class_name).from_config(settings)
        else:
            model_class = getattr(transformers, class_name)
            module = model_class(model_class.config_class(**settings))
    if library == "transformers":
        module.tie_weights()  # moving to meta one by one has untied shared weights
    return module.eval().requires_grad_(False)


def fill(module: nn.Module, device: torch.device, dtype: torch.dtype, seed: int) -> None:
    """Create parameters in `dtype` on `device`: matrices normal with variance 1 / fan-in, biases 0, scales 1.

    Activations so keep their size, and do not overflow in half precision. Buffers keep their dtype.
    """
    generator = None if device.type == "meta" else torch.Generator(device).manual_seed(seed)
    made: dict[int, nn.Parameter] = {}
    for owner in module.modules():
        for name, old in owner.named_parameters(recurse=False):
            if id(old) not in made:
                new = torch.empty(old.shape, dtype=dtype, device=device)
                if generator is None:
                    pass
                elif new.ndim > 1:
                    new.normal_(0, new[0].numel() ** -0.5, generator=generator)
                else:
                    new.fill_(0 if "bias" in name else 1)
                made[id(old)] = nn.Parameter(new, requires_grad=False)
            setattr(owner, name, made[id(old)])
    module.to(device=device)


def _without_mask(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Drop the mask: transformers looks whether it masks anything, which meta cannot say; it costs no FLOPs."""
    return args, kwargs | {"attention_mask": None}


def _schedule_without_values(scheduler: Any) -> None:
    """Let a scheduler run where tensors have no values: it counts its steps, because it cannot look them up."""
    from diffusers import DDPMScheduler

    set_timesteps = scheduler.set_timesteps
    by_value = isinstance(scheduler, DDPMScheduler)  # it indexes with the timestep: keep that on the CPU

    @functools.wraps(set_timesteps)  # pipelines read its signature
    def counted(*args: Any, **kwargs: Any) -> None:
        set_timesteps(*args, **kwargs | ({"device": "cpu"} if by_value else {}))
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)

    scheduler.set_timesteps = counted
