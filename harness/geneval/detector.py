"""What a detector is, and the judging of images by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from harness.geneval.rules import ClassifyColors, Objects, Verdict, evaluate, select

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Seen:
    """What a detector sees in one image: raw detections by class, and how to name their colours."""

    objects: Objects
    classify_colors: ClassifyColors


class Detector(Protocol):
    name: str

    def detect(self, images: Sequence[Image.Image]) -> list[Seen]: ...


def judge(
    detector: Detector, images: Sequence[Image.Image], prompts: Sequence[Mapping[str, Any]]
) -> list[Verdict]:
    """GenEval's verdict on each image against the metadata of its prompt."""
    return [
        evaluate(prompt, select(seen.objects, prompt["tag"]), seen.classify_colors)
        for seen, prompt in zip(detector.detect(images), prompts, strict=True)
    ]
