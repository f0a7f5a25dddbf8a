"""CLIP-Score of image-caption pairs, by which the paper judges its alignment data (B.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from vhsbench.harness.geneval.colors import open_clip_model
from vhsbench.verifiers.clip import load_clip
from vhsbench.verifiers.nano import WEIGHTS as BUNDLED
from vhsbench.verifiers.nano.models import clip_ids, clip_tokenizer

if TYPE_CHECKING:
    from PIL import Image

    from vhsbench.harness.training.data_config import ClipScoreConfig

_WEIGHT = 2.5  # Hessel et al. 2021: brings the cosine to about 0..1
_PREFIX = "A photo depicts "


class ClipScore:
    """100 x 2.5 x max(cosine, 0) of an image and its caption.

    `pixels` prepares images [B, 3, S, S], `tokens` texts [B, L]; both on the model's device.
    """

    def __init__(
        self,
        model: Any,
        pixels: Callable[[Sequence[Image.Image]], torch.Tensor],
        tokens: Callable[[Sequence[str]], torch.Tensor],
        name: str,
    ) -> None:
        self.name = name
        self.model, self._pixels, self._tokens = model.eval(), pixels, tokens

    @torch.inference_mode()
    def __call__(self, images: Sequence[Image.Image], captions: Sequence[str]) -> list[float]:
        image = F.normalize(self.model.encode_image(self._pixels(images)).float(), dim=-1)
        text = F.normalize(self.model.encode_text(self._tokens(captions)).float(), dim=-1)
        cosine = (image * text).sum(-1)
        return (100 * _WEIGHT * cosine.clamp(min=0)).tolist()


def open_clip_score(config: ClipScoreConfig, device: str) -> ClipScore:
    """Load an open_clip model, or nano's CLIP, bundled or from a folder. Raises ColorModelError."""
    if config.model == "nano" or Path(config.model).is_dir():
        return _nano(BUNDLED / "clip" if config.model == "nano" else Path(config.model), device)
    model, transform, tokenizer = open_clip_model(config.model, config.pretrained, device, "CLIP-Score model")
    return ClipScore(
        model,
        lambda images: torch.stack([transform(i) for i in images]).to(device),
        lambda texts: tokenizer([_PREFIX + t for t in texts]).to(device),
        f"{config.model} {config.pretrained}",
    )


def _nano(folder: Path, device: str) -> ClipScore:
    clip, patches = load_clip(folder, torch.device(device))
    tokenizer = clip_tokenizer()

    def tokens(texts: Sequence[str]) -> torch.Tensor:
        return clip_ids(tokenizer, texts, clip.context_length).to(device)

    return ClipScore(clip, patches.pixels, tokens, "nano")
