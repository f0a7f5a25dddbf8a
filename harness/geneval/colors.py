"""Colours of detected objects: CLIP zero-shot on masked crops, with GenEval's templates."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from vhsbench.generators.hub import cached_if_unreachable, refusal
from vhsbench.harness.common.digests import file_digest
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import ReadError, read_errors_as
from vhsbench.harness.common.models import check_model, check_types, no_code, reason
from vhsbench.harness.common.registry import nearest
from vhsbench.harness.geneval.rules import COLORS, Detection

if TYPE_CHECKING:
    from vhsbench.harness.geneval.detector import ColorRequest

# open_clip 3 would silently run "ViT-L-14" with "openai" weights with another activation function
MODEL = "ViT-L-14-quickgelu"
BACKGROUND = "#999"
TEMPLATES = ("a photo of a {c} {name}", "a photo of a {c}-colored {name}", "a photo of a {c} object")


class ColorModelError(VhsbenchError):
    """A colour model that cannot be loaded; the message is one sentence for a user."""


class ColorNamer:
    """Names the colour of each crop by an open_clip `model` with its `transform` and `tokenizer`.

    On CUDA it runs under float16 autocast, as the official evaluator does; on the CPU in the model's precision.
    """

    def __init__(self, model: Any, transform: Any, tokenizer: Any, name: str = "") -> None:
        self.model, self.transform, self.tokenizer, self.name = model.eval(), transform, tokenizer, name
        self._classifiers: dict[str, Tensor] = {}

    @classmethod
    def load(cls, pretrained: str = "openai", device: str = "cpu", model: str = MODEL) -> ColorNamer:
        """Load open_clip's `model` with `pretrained` weights: a tag, a file, or "random". Raises ColorModelError."""
        return cls(*open_clip_model(model, pretrained, device, "colour model"), pretrained)

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def name_colors(self, requests: Sequence[ColorRequest]) -> list[list[str]]:
        """Name one colour per detection of each request; all crops run in one forward."""
        crops = [crop(image, d) for image, _, detections in requests for d in detections]
        if not crops:
            return [[] for _ in requests]
        names = [name for _, name, detections in requests for _ in detections]
        with torch.inference_mode(), self._precision():
            pixels = torch.stack([self.transform(c) for c in crops]).to(self._device)
            features = F.normalize(self.model.encode_image(pixels), dim=-1)
            classifiers = torch.stack([self._classifier(name) for name in names])
            logits = 100 * torch.einsum("nd,ndc->nc", features, classifiers.to(features.dtype))
        # the first of equal colours wins, which torch's argmax does not guarantee
        chosen = iter(logits.float().cpu().numpy().argmax(1))
        return [[COLORS[next(chosen)] for _ in detections] for _, _, detections in requests]

    def _precision(self) -> Any:
        return torch.autocast("cuda", torch.float16, enabled=self._device.type == "cuda")

    def _classifier(self, name: str) -> Tensor:
        """Return the text classifier of a class, [D, colours]: each colour's templates averaged."""
        if name not in self._classifiers:
            texts = [t.format(c=c, name=name) for c in COLORS for t in TEMPLATES]
            features = self.model.encode_text(self.tokenizer(texts).to(self._device))
            per_color = F.normalize(features, dim=-1).unflatten(0, (len(COLORS), len(TEMPLATES))).mean(1)
            self._classifiers[name] = F.normalize(per_color, dim=-1).T
        return self._classifiers[name]


def identity(pretrained: str) -> dict[str, Any]:
    """Identify what `ColorNamer.load` would read: a file's digest, an open_clip tag, or "random".

    Raises ColorModelError for a file that cannot be read.
    """
    if not Path(pretrained).is_file():
        return {"tag": pretrained}
    with read_errors_as(ColorModelError):
        return {"sha256": file_digest(Path(pretrained))}


def open_clip_model(model: str, pretrained: str, device: str, what: str) -> tuple[Any, Any, Any]:
    """Load an open_clip model, its image transform and its tokenizer; errors name it by `what`.

    `model` is one of open_clip's own; `pretrained` is a tag, a file (safetensors, or tensors saved by torch), or
    "random". No code of a model runs. Raises ColorModelError, also for weights that are not finite floats.
    """
    import open_clip

    if model not in open_clip.list_models():
        raise ColorModelError(
            f"{what}: '{model}' is no model of open_clip's; {nearest(model, open_clip.list_models())}"
        )
    here = Path(pretrained).is_file()
    if (
        pretrained != "random"
        and not here
        and pretrained not in open_clip.list_pretrained_tags_by_model(model)
    ):
        raise ColorModelError(
            f"{what} '{pretrained}' is neither a file, 'random', nor a pretrained tag of {model}."
        )
    try:
        with nullcontext() if here or pretrained == "random" else cached_if_unreachable(), no_code():
            files = [] if pretrained == "random" else [weights_file(model, pretrained)]
            for file in files:
                check_types(file)
            built, _, transform = open_clip.create_model_and_transforms(
                model, pretrained=pretrained if files else None, device=device,
                force_quick_gelu="quickgelu" in model,
            )  # fmt: skip
            check_model(built, files, f"{model} ({pretrained})")
            return built, transform, open_clip.get_tokenizer(model)
    except Exception as error:
        unloaded = f"the {what} {model} ({pretrained}) cannot be loaded: {reason(error)}."
        raise ColorModelError(refusal(f"{model} ({pretrained})", error) or unloaded) from error


def weights_file(model: str, pretrained: str) -> Path:
    """Return the file that is named, or that of a tag's weights, downloaded if it is not cached. Raises ReadError."""
    import open_clip

    tag = None if Path(pretrained).is_file() else open_clip.get_pretrained_cfg(model, pretrained)
    file = Path(open_clip.download_pretrained(tag) if tag else pretrained)
    if file.suffix in (".npz", ".npy"):
        raise ReadError(f"{file} is of NumPy; weights are safetensors, or tensors saved by torch.")
    return file


def crop(image: Image.Image, detection: Detection) -> Image.Image:
    """Cut out the object's box; what is outside its mask (if it has one) is grey."""
    x1, y1, x2, y2 = (round(edge) for edge in detection.box)
    picture = image.convert("RGB").crop((x1, y1, x2, y2))  # black beyond the image
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, image.width), min(y2, image.height)
    if detection.mask is None or left >= right or top >= bottom:
        return picture
    mask: Any = detection.mask[top:bottom, left:right]
    mask = mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    place = left - x1, top - y1
    blank = Image.new("RGB", (right - left, bottom - top), BACKGROUND)
    picture.paste(blank, place, Image.fromarray(~mask))
    return picture
