"""What all scorers share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from vhsbench.verifiers.checkpoint import CheckpointError
from vhsbench.verifiers.protocol import Needs, Scores, VerifierDefaults, VerifierInfo
from vhsbench.verifiers.verifier import FeatureError

if TYPE_CHECKING:
    from PIL import Image
    from torch import nn


class Model(Protocol):
    """A model of images and texts: `name` is what its module is called where costs are shown."""

    name: str

    @property
    def module(self) -> nn.Module: ...


class Scorer(VerifierDefaults):
    """A verifier of images that ranks: scores without P(yes)."""

    needs: Needs = "images"

    def __init__(self, name: str, model: Model, *, checkpoint_sha256: str = "", source: str = "") -> None:
        self.name = name
        self._model, self._source = model, source
        self.checkpoint_sha256 = checkpoint_sha256

    @property
    def device(self) -> torch.device:
        return next(self._model.module.parameters()).device

    @torch.inference_mode()
    def score(self, prompts: Sequence[str], features: Any) -> Scores:
        """See Verifier.score. Raises FeatureError for another number of images than of prompts."""
        images = list(features)
        if not prompts or len(prompts) != len(images):
            raise FeatureError(f"{len(prompts)} prompts do not fit {len(images)} images.")
        return Scores(score=self.scores(list(prompts), images))

    def scores(self, prompts: list[str], images: list[Image.Image]) -> torch.Tensor:
        """Compute the scores [B], float32, of as many images as prompts."""
        raise NotImplementedError

    def modules(self) -> Mapping[str, nn.Module]:
        """See Verifier.modules."""
        return {self._model.name: self._model.module}

    def info(self) -> VerifierInfo:
        parameters = sum(p.numel() for p in self._model.module.parameters())
        return VerifierInfo(self.name, self.needs, None, parameters, source=self._source)


def between(values: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """Map low..high to 0..1; what rounding puts outside counts as the end."""
    return ((values - low) / (high - low)).clamp(0, 1)


def check_tokens(tokenizer: Any, embeddings: int, where: Path) -> None:
    """Refuse a tokenizer, read from `where`, with a token that the model has no embedding of. Raises CheckpointError."""
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= embeddings:
        raise CheckpointError(
            f"{where}: a token of its tokenizer is number {largest:,}, but its model has {embeddings:,} embeddings."
        )


def assign(module: nn.Module, tensors: Mapping[str, torch.Tensor], where: str) -> None:
    """Give a module on meta its tensors, without copies. Raises CheckpointError for a missing or misshapen one."""
    wanted = module.state_dict()
    for key, like in wanted.items():
        if key not in tensors:
            raise CheckpointError(f"{where}: it lacks the key '{key}'.")
        if (shape := tensors[key].shape) != like.shape:
            raise CheckpointError(f"{where}: '{key}' has shape {list(shape)}, not {list(like.shape)}.")
    module.load_state_dict({key: tensors[key] for key in wanted}, assign=True)
