"""Scores by the cosine of an image's and a text's features: CLIPScore, PickScore, HPS v2."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from vhsbench.verifiers.scorers.scorer import Model, Scorer, between

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image

CLIP_WEIGHT = 2.5  # Hessel et al. 2021


class Towers(Model, Protocol):
    """A CLIP: features [B, D] of images and of texts, in one space."""

    @property
    def scale(self) -> torch.Tensor:
        """The factor of the cosine that it was trained with."""
        ...

    def images(self, images: Sequence[Image.Image]) -> torch.Tensor: ...

    def texts(self, texts: Sequence[str]) -> torch.Tensor: ...


class Similarity(Scorer):
    """The cosine itself, which HPS v2 is: -1 to 1."""

    _model: Towers

    def cosine(self, prompts: list[str], images: list[Image.Image]) -> torch.Tensor:
        """Return the cosine [B] of each image with its prompt; equal prompts are read once."""
        texts = list(dict.fromkeys(prompts))
        text = _unit(self._model.texts(texts).float())
        image = _unit(self._model.images(images).float())
        return (image * text[[texts.index(prompt) for prompt in prompts]]).sum(-1)

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image]) -> NDArray[np.float64]:
        """Compute features [B, D] of images, of unit length."""
        features = _unit(self._model.images(images).float()).cpu().numpy().astype(np.float64)
        return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True))

    def scores(self, prompts: list[str], images: list[Image.Image]) -> torch.Tensor:
        """Compute the cosine."""
        return self.cosine(prompts, images)

    def value(self, score: torch.Tensor) -> torch.Tensor:
        """See Verifier.value: the cosine, from -1..1."""
        return between(score, -1, 1)


class ClipScore(Similarity):
    """CLIPScore (Hessel et al. 2021): 2.5 max(cos, 0)."""

    def scores(self, prompts: list[str], images: list[Image.Image]) -> torch.Tensor:
        """Compute CLIPScore, 0 to 2.5."""
        return CLIP_WEIGHT * self.cosine(prompts, images).clamp(min=0)

    def value(self, score: torch.Tensor) -> torch.Tensor:
        """See Verifier.value: max(cos, 0)."""
        return between(score, 0, CLIP_WEIGHT)


class PickScore(Similarity):
    """PickScore (Kirstain et al. 2023): the cosine times the model's own scale, about 100."""

    def scores(self, prompts: list[str], images: list[Image.Image]) -> torch.Tensor:
        """Compute PickScore."""
        return self._model.scale.float() * self.cosine(prompts, images)

    def value(self, score: torch.Tensor) -> torch.Tensor:
        """See Verifier.value: the cosine, from -1..1."""
        return super().value(score / self._model.scale.float().to(score.device))


def _unit(rows: torch.Tensor) -> torch.Tensor:
    """Scale each row to length 1, by operators whose FLOPs are counted."""
    return rows / rows.square().sum(-1, keepdim=True).sqrt()
