"""What a judge is: it says of images, given their prompts, how well they show what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from vhsbench.harness.common.errors import VhsbenchError

if TYPE_CHECKING:
    from PIL import Image

Metadata = Mapping[str, Any]  # a prompt with what its images are judged by


class JudgeError(VhsbenchError):
    """A judge that cannot be used, or a verdict that is none; the message is one sentence for a user."""


@dataclass(frozen=True)
class Verdict:
    """What a judge says of one image.

    value: from 0 to 1, the higher the better. correct: whether the image is right; None of a judge without a
    threshold. reason: why it is not right, one failure a line; "" where there is nothing to say.
    """

    value: float
    correct: bool | None = None
    reason: str = ""


class Judge(Protocol):
    """What judges images. Another package's may leave out what JudgeDefaults has."""

    name: str  # in rows and errors; a run sets an entry's label here
    tells: Sequence[str]  # the tasks whose known pictures it must tell apart before a run (self_test.py)

    def judge(self, images: Sequence[Image.Image], prompts: Sequence[Metadata]) -> Sequence[Verdict]:
        """Judge each image by the metadata of its own prompt."""
        ...

    def check_prompt(self, prompt: Metadata, where: str) -> None:
        """Raise a VhsbenchError, one sentence, for a prompt that it cannot judge images by; `where` names it."""
        ...

    def info(self) -> dict[str, Any]:
        """Return what identifies it in records: its model, revision or digest. Plain JSON."""
        ...

    def reference(self) -> Judge:
        """Return the judge whose verdicts on known pictures its own must equal: itself, unless it is a faster form of one."""
        ...


class JudgeDefaults:
    """What a judge need not say. One that leaves a member out gets it from here when it is created."""

    name: str
    tells: Sequence[str] = ("single_object",)

    def check_prompt(self, prompt: Metadata, where: str) -> None:
        """Accept any prompt."""

    def reference(self) -> Any:
        """Return itself."""
        return self

    def info(self) -> dict[str, Any]:
        """Return the name alone."""
        return {"name": self.name}
