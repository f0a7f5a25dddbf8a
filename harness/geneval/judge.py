"""GenEval as a judge: a detector's objects, held against the prompt's clauses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vhsbench.harness.common.registry import Factory
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval import detector as detectors
from vhsbench.harness.judges.protocol import Metadata, Verdict

if TYPE_CHECKING:
    from PIL import Image

    from vhsbench.harness.geneval.detector import Detector


class GenevalJudge:
    """An image is right if every clause of its prompt holds; its value is 1 or 0."""

    name = "geneval"
    tells: Sequence[str] = TAGS

    def __init__(self, detector: Detector) -> None:
        self.detector = detector

    def judge(self, images: Sequence[Image.Image], prompts: Sequence[Metadata]) -> Sequence[Verdict]:
        """See Judge.judge. Raises DetectorError, and what the detector does."""
        return detectors.judge(self.detector, images, prompts)

    def check_prompt(self, prompt: Metadata, where: str) -> None:
        """See Judge.check_prompt. Raises UnknownClass for an object that the detector cannot find."""
        detectors.check_classes(self.detector, prompt, where)

    def reference(self) -> GenevalJudge:
        """See Judge.reference: by the detector's own reference, if it has one."""
        exact = getattr(self.detector, "reference", lambda: self.detector)()
        return self if exact is self.detector else GenevalJudge(exact)

    def info(self) -> dict[str, Any]:
        """Return what the detector says of itself."""
        return self.detector.info()


@dataclass(frozen=True)
class Options:
    """Which detector (`harness/geneval/detector.py`) finds the objects, with its options, on which device."""

    detector: str = "mask2former"
    options: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None


geneval = Factory(
    Options,
    lambda o: GenevalJudge(detectors.create(o.detector, o.device, **o.options)),
    lambda o: detectors.identity(o.detector, o.device, **o.options),
)
