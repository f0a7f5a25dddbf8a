"""The protocol of a detector, the registered ones, and the verdicts on images by one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from vhsbench.generators.checks import as_device
from vhsbench.generators.nano.world import SHAPES
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.registry import Registry, nearest
from vhsbench.harness.geneval.prompts import coco_classes
from vhsbench.harness.geneval.rules import Detection, Objects, colored, evaluate, select
from vhsbench.harness.judges.protocol import Verdict

if TYPE_CHECKING:
    from PIL import Image


class ColorRequest(NamedTuple):
    """Objects of one class in one image whose colours are needed."""

    image: Image.Image
    name: str
    detections: Sequence[Detection]


class Detector(Protocol):
    """Finds objects in images, and names their colours.

    `detect` returns each image's raw detections by class, in the order of `classes`; `name_colors` returns one
    colour per detection of each request; `info` identifies the detector in records.
    """

    name: str
    classes: Sequence[str]

    def detect(self, images: Sequence[Image.Image]) -> list[Objects]: ...

    def name_colors(self, requests: Sequence[ColorRequest]) -> list[list[str]]: ...

    def info(self) -> dict[str, Any]: ...


REGISTRY: Registry[Detector] = Registry(
    "detector",
    "vhsbench.detectors",
    {
        "mask2former": "vhsbench.harness.geneval.mask2former:Mask2FormerDetector",
        "mmdet": "vhsbench.harness.geneval.mmdet_backend:MMDetDetector",
        "shapes": "vhsbench.harness.geneval.shapes:ShapeDetector",
    },
    Detector,
)


class DetectorError(VhsbenchError):
    """A detector that cannot be used as configured; the message is one sentence for a user."""


class UnknownClass(DetectorError):
    """A prompt for an object that the detector cannot find; the message is one sentence for a user."""


class Vocabulary(NamedTuple):
    """A detector's name and the classes that it knows."""

    name: str
    classes: Sequence[str]


def vocabulary(name: str) -> Vocabulary | None:
    """Return the classes of a bundled detector without loading it; None for another package's."""
    classes = {"mask2former": coco_classes, "mmdet": coco_classes, "shapes": lambda: SHAPES}.get(name)
    return Vocabulary(name, classes()) if classes else None


def create(name: str, device: str | None = None, /, **options: Any) -> Detector:
    """Create a registered detector, on `device` if it has a device and its options name no other.

    Raises RegistryError for an unknown name or option, GeneratorError for an unknown or absent
    device, and what the detector raises for bad weights.
    """
    options = _placed(name, device, options)
    if "device" in options:
        as_device(options["device"])
    return REGISTRY.create(name, **options)


def identity(name: str, device: str | None = None, /, **options: Any) -> dict[str, Any]:
    """Return what decides the verdicts of the detector that `create` would build, files by content; load nothing."""
    return REGISTRY.identity(name, **_placed(name, device, options))


def _placed(name: str, device: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with the device, if the detector has one."""
    return {"device": device, **options} if device and REGISTRY.takes(name, "device") else options


def check_classes(detector: Detector | Vocabulary, metadata: Mapping[str, Any], where: str) -> None:
    """Refuse a prompt for an object that the detector cannot find. Raises UnknownClass."""
    for name in classes_of(metadata):
        if name not in detector.classes:
            raise UnknownClass(
                f"{where}: class '{name}' is unknown to the detector {detector.name}; "
                f"{nearest(name, list(detector.classes))}"
            )


def classes_of(metadata: Mapping[str, Any]) -> list[str]:
    """Return the classes that a prompt's clauses name."""
    return [clause["class"] for part in ("include", "exclude") for clause in metadata.get(part, [])]


@dataclass(frozen=True)
class Judgement(Verdict):
    """A verdict with the objects that it is based on, by class."""

    objects: Objects = field(default_factory=dict)


def judge(
    detector: Detector,
    images: Sequence[Image.Image],
    prompts: Sequence[Mapping[str, Any]],
    seen: Sequence[Objects] | None = None,
) -> list[Judgement]:
    """Judge each image against the metadata of its prompt; all colours are named in one request.

    `seen` is what the detector found in the images, if it has already run. Raises DetectorError
    for a box or score that is NaN or infinite, which no rule would count.
    """
    found = detector.detect(images) if seen is None else seen
    for objects, prompt in zip(found, prompts, strict=True):
        _refuse_odd(detector, objects, prompt)
    kept = [select(raw, prompt["tag"]) for raw, prompt in zip(found, prompts, strict=True)]
    asked = [colored(prompt, objects) for prompt, objects in zip(prompts, kept, strict=True)]
    requests = [
        ColorRequest(image, clause["class"], boxes)
        for image, prompt, clauses in zip(images, prompts, asked, strict=True)
        for clause, boxes in zip(prompt["include"], clauses, strict=True)
        if boxes
    ]
    answers = iter(detector.name_colors(requests) if requests else [])
    judgements = []
    for prompt, objects, clauses in zip(prompts, kept, asked, strict=True):
        colors = [next(answers) if boxes else [] for boxes in clauses]
        verdict = evaluate(prompt, objects, colors)
        judgements.append(Judgement(verdict.value, verdict.correct, verdict.reason, objects))
    return judgements


def _refuse_odd(detector: Detector, objects: Objects, prompt: Mapping[str, Any]) -> None:
    for name, detections in objects.items():
        for d in detections:
            if not all(map(math.isfinite, (d.score, *d.box))):
                raise DetectorError(
                    f"detector '{detector.name}' found a '{name}' of score {d.score:g} in the box {tuple(d.box)} "
                    f"of an image of '{prompt.get('prompt', '')}'; both are finite numbers."
                )
