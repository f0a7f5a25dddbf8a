"""GenEval's detector: Mask2Former Swin-S in transformers, with mmdet's pre- and post-processing written out.

Two pipelines: `geneval` is mmdet 2.x's (resize in uint8, pad with 128, then normalise), which the official
evaluator uses; `mmdet3` is mmdet 3.x's (resize in float32, normalise, then pad with 0).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from vhsbench.harness.geneval import mask2former_weights
from vhsbench.harness.geneval.colors import ColorNamer
from vhsbench.harness.geneval.colors import identity as color_identity
from vhsbench.harness.geneval.detector import ColorRequest, DetectorError
from vhsbench.harness.geneval.prompts import coco_classes
from vhsbench.harness.geneval.rules import THRESHOLD, Detection, Objects

if TYPE_CHECKING:
    from PIL import Image

PIPELINES = ("geneval", "mmdet3")
DTYPES = ("float32", "float16")
SCALE = (1333, 800)  # the longest and the shortest side of a resized image, at most, in pixels
MAX_DETECTIONS = 100
_MULTIPLE = 32  # sides are padded to a multiple of it
_MASKS_AT_ONCE = 25  # full-size float masks in memory at a time
_MEAN = np.array([123.675, 116.28, 103.53], dtype=np.float32)  # of RGB
_STD = np.array([58.395, 57.12, 57.375], dtype=np.float32)
# normalised bytes [256, 3], with mmcv's rounding: statistics and difference in float32, the product in float64
_NORMAL = ((np.arange(256, dtype=np.float32)[:, None] - _MEAN) * (1 / _STD.astype(np.float64))).astype(
    np.float32
)


class Mask2FormerDetector:
    """COCO's 80 classes in GenEval's names. Raises DetectorWeightsError or DetectorError.

    checkpoint: mmdet's .pth of 2.x or 3.x, "random", or None for the published file from the hub.
    colors: a ColorNamer, or what ColorNamer.load takes; loaded when colours are first needed.
    scale: the longest and shortest side of a resized image; anything but 1333 and 800 is not GenEval.
    dtype: float32, or float16 for the network alone, under autocast; GenEval's is float32.
    """

    name = "mask2former"

    def __init__(
        self,
        checkpoint: str | None = None,
        pipeline: str = "geneval",
        colors: str | ColorNamer = "openai",
        device: str = "cpu",
        batch_size: int = 8,
        scale: tuple[int, int] = SCALE,
        seed: int = 0,
        dtype: str = "float32",
    ) -> None:
        if dtype not in DTYPES:
            raise DetectorError(f"no detector dtype '{dtype}'; there are {' and '.join(DTYPES)}.")
        if pipeline not in PIPELINES:
            raise DetectorError(f"no detector pipeline '{pipeline}'; there are {' and '.join(PIPELINES)}.")
        _cv2()
        self.classes = coco_classes()
        self.pipeline, self.batch_size, self.scale = pipeline, batch_size, (max(scale), min(scale))
        self.dtype = dtype
        model, self.checkpoint_sha256, self._ignored = mask2former_weights.load(checkpoint, seed)
        self.model: Any = model.to(device)  # type: ignore[arg-type]  # transformers' decorator hides self
        self._colors = colors

    @property
    def colors(self) -> ColorNamer:
        if isinstance(self._colors, str):
            self._colors = ColorNamer.load(self._colors, str(self.model.device))
        return self._colors

    @classmethod
    def identity(
        cls, checkpoint: str | None = None, colors: str = "openai", seed: int = 0, **options: Any
    ) -> dict[str, Any]:
        """Return what decides its verdicts, files by content; load nothing. Raises DetectorWeightsError or ColorModelError."""
        defaults = {name: p.default for name, p in inspect.signature(cls).parameters.items()}
        given = {name: options.get(name, defaults[name]) for name in ("pipeline", "batch_size", "scale")}
        half = {"dtype": dtype} if (dtype := options.get("dtype", "float32")) != "float32" else {}
        return given | {
            **half,
            "device": str(options.get("device", "cpu")).partition(":")[0],
            "checkpoint": mask2former_weights.identity(checkpoint, seed),
            "colors": color_identity(colors),
        }

    def info(self) -> dict[str, Any]:
        colors = self._colors if isinstance(self._colors, str) else self._colors.name
        file = color_identity(colors).get("sha256")
        found: dict[str, Any] = {
            "name": self.name,
            "pipeline": self.pipeline,
            "checkpoint_sha256": self.checkpoint_sha256,
            "colors": colors,
            "scale": list(self.scale),
            **({"colors_sha256": file} if file else {}),
            **({"dtype": self.dtype} if self.dtype != "float32" else {}),
        }
        return found | ({"ignored": self._ignored} if self._ignored else {})

    def reference(self) -> Self:
        """Return the detector whose verdicts this one's must equal: the same model in float32."""
        if self.dtype == "float32":
            return self
        exact = copy.copy(self)
        exact.dtype = "float32"
        return exact

    def detect(self, images: Sequence[Image.Image]) -> list[Objects]:
        """See Detector.detect. Boxes and masks are in the image's pixels.

        Masks stay on the device; a detection that is not above GenEval's threshold of 0.3 has none.
        """
        prepared = [_resized(image, self.pipeline, self.scale) for image in images]
        found: dict[int, Objects] = {}
        shapes = {pixels.shape for pixels, _ in prepared}
        for shape in shapes:
            padded = shape[0], shape[1]
            alike = [i for i, (pixels, _) in enumerate(prepared) if pixels.shape == shape]
            for at in range(0, len(alike), self.batch_size):
                part = alike[at : at + self.batch_size]
                pixels = torch.stack([prepared[i][0] for i in part])
                classes, masks = self.logits(_normalised(pixels.to(self.model.device)))
                for row, i in enumerate(part):
                    height, width = images[i].height, images[i].width
                    found[i] = self._objects(
                        *instances(classes[row], masks[row], padded, prepared[i][1], (height, width))
                    )
        return [found[i] for i in range(len(images))]

    def name_colors(self, requests: Sequence[ColorRequest]) -> list[list[str]]:
        """See Detector.name_colors: CLIP on the masked crops, all in one forward."""
        return self.colors.name_colors(requests)

    @torch.inference_mode()
    def logits(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute class logits [B, 100, 81] and mask logits [B, 100, H/4, W/4] of the last layer for [B, 3, H, W]."""
        device, dtype = self.model.device, self.model.dtype
        with torch.autocast(device.type, torch.float16, enabled=self.dtype == "float16"):
            out = self.model(pixels.to(device, dtype))
        return out.class_queries_logits.to(dtype), out.masks_queries_logits.to(dtype)

    def _objects(self, labels: Tensor, scores: Tensor, boxes: Tensor, masks: Tensor) -> Objects:
        rows: list[list[Detection]] = [[] for _ in self.classes]
        plain = zip(labels.tolist(), boxes.tolist(), scores.tolist(), masks, strict=True)
        for label, (x1, y1, x2, y2), score, mask in plain:
            # the other masks, which no rule reads, would fill the device
            kept = mask.clone() if score > THRESHOLD else None
            rows[label].append(Detection((x1, y1, x2, y2), score, kept))
        return {name: found for name, found in zip(self.classes, rows, strict=True) if found}


def prepare(
    image: Image.Image, pipeline: str, scale: tuple[int, int] = SCALE
) -> tuple[Tensor, tuple[int, int]]:
    """Prepare an image as network input [3, H, W], H and W multiples of 32; also return (height, width) before padding."""
    pixels, size = _resized(image, pipeline, scale)
    return _normalised(pixels[None])[0], size


def _resized(image: Image.Image, pipeline: str, scale: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Resize and pad an image to [H, W, 3]: bytes by `geneval`, normalised floats by `mmdet3`; also return its size before padding."""
    pixels: NDArray[Any] = np.asarray(image.convert("RGB"))
    if pipeline == "mmdet3":
        pixels = pixels.astype(np.float32)
    height, width = pixels.shape[:2]
    factor = min(max(scale) / max(height, width), min(scale) / min(height, width))
    size = (int(height * factor + 0.5), int(width * factor + 0.5))
    cv2 = _cv2()
    resized = cv2.resize(pixels, size[::-1], interpolation=cv2.INTER_LINEAR)
    down, right = (-size[0] % _MULTIPLE, -size[1] % _MULTIPLE)
    margin = ((0, down), (0, right), (0, 0))
    if pipeline == "mmdet3":
        scaled = (torch.from_numpy(resized) - torch.from_numpy(_MEAN)) / torch.from_numpy(_STD)
        return F.pad(scaled, (0, 0, 0, right, 0, down)), size
    return torch.from_numpy(np.pad(resized, margin, constant_values=128)), size


def _normalised(pixels: Tensor) -> Tensor:
    """Return [B, H, W, 3] as network input [B, 3, H, W]: bytes are looked up where they are, floats are normalised."""
    if pixels.dtype != torch.uint8:
        return pixels.permute(0, 3, 1, 2).contiguous()
    levels, normal = pixels.permute(3, 0, 1, 2).int(), torch.from_numpy(_NORMAL.T.copy()).to(pixels.device)
    return torch.stack([channel[each] for channel, each in zip(normal, levels, strict=True)], 1)


def instances(
    class_logits: Tensor,
    mask_logits: Tensor,
    padded: tuple[int, int],
    resized: tuple[int, int],
    original: tuple[int, int],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute labels [K], scores [K], boxes [K, 4] and bool masks [K, H, W] of one image, as mmdet does.

    From class logits [Q, C+1] and mask logits [Q, h, w]. A query can appear with several labels.
    """
    probabilities = class_logits.softmax(-1)[:, :-1]
    scores, index = probabilities.flatten().topk(min(MAX_DETECTIONS, probabilities.numel()), sorted=False)
    labels, queries = index % probabilities.shape[1], index // probabilities.shape[1]
    used, which = queries.unique(return_inverse=True)
    masks, certainty = [], []
    for part in used.split(_MASKS_AT_ONCE):
        logits = _resize(mask_logits[part], padded)[:, : resized[0], : resized[1]]
        logits = _resize(logits, original)
        mask = logits > 0
        area = mask.flatten(1).sum(1).float()  # in float32, as in mmdet, whatever the logits are
        certainty.append((logits.sigmoid() * mask).flatten(1).sum(1) / (area + 1e-6))
        masks.append(mask)
    mask = torch.cat(masks)
    boxes = _boxes(mask).to(scores.dtype)
    return labels, scores * torch.cat(certainty)[which], boxes[which], mask[which]


def _resize(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(logits[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def _boxes(masks: Tensor) -> Tensor:
    """Return boxes [K, 4] (x1, y1, x2 + 1, y2 + 1) around bool masks [K, H, W]; zeros for an empty one."""
    ends = []
    for axis in (1, 2):  # columns, then rows
        occupied = masks.any(axis).int()
        ends.append((occupied.argmax(1), occupied.shape[1] - occupied.flip(1).argmax(1)))
    (x1, x2), (y1, y2) = ends
    return torch.stack([x1, y1, x2, y2], 1) * masks.flatten(1).any(1)[:, None]


def _cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise DetectorError(
            "the detector resizes with OpenCV, which is not installed: pip install 'vhsbench[geneval]'."
        ) from error
    return cv2
