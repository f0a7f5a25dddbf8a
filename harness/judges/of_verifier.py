"""A judge made of a verifier that reads images."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vhsbench import verifiers
from vhsbench.harness.common.shown import printable
from vhsbench.harness.judges.protocol import JudgeDefaults, JudgeError, Metadata, Verdict
from vhsbench.verifiers.checks import marks

if TYPE_CHECKING:
    from PIL import Image

    from vhsbench.verifiers.protocol import Verifier


class VerifierJudge(JudgeDefaults):
    """Judges by the values of a verifier's scores; right is what reaches `threshold`, by default its own if it has one."""

    def __init__(self, verifier: Verifier, threshold: float | None = None) -> None:
        """Raise JudgeError for a verifier that does not read images, the only thing that a judge is given."""
        if verifier.needs != "images":
            raise JudgeError(
                f"'{verifier.name}' cannot be a judge: it reads {verifier.needs}, and a judge is given images."
            )
        self.name, self.verifier = verifier.name, verifier
        self.threshold = verifier.threshold if threshold is None else _checked(threshold, verifier.name)

    def judge(self, images: Sequence[Image.Image], prompts: Sequence[Metadata]) -> list[Verdict]:
        """See Judge.judge. Raises ScoresError, JudgeError for scores without values, and what the verifier does."""
        texts = [str(prompt["prompt"]) for prompt in prompts]
        self.verifier.prepare(prompts)
        scores = self.verifier.score(texts, list(images))
        marks(self.verifier, scores, len(texts), lambda row: f"an image of '{printable(texts[row])}'")
        values = self.verifier.value(scores.score)
        if values is None:
            raise JudgeError(
                f"verifier '{self.verifier.name}' cannot be a judge: it has no value(score) from 0 to 1."
            )
        return [self._verdict(float(value)) for value in values.detach().float().cpu()]

    def _verdict(self, value: float) -> Verdict:
        limit = self.threshold
        if limit is None or value >= limit:
            return Verdict(value, None if limit is None else True)
        return Verdict(value, False, f"value {value:.4g}, less than {limit:g}")

    def info(self) -> dict[str, Any]:
        """See Judge.info."""
        info = self.verifier.info()
        return {"name": info.name, "checkpoint": self.verifier.checkpoint_sha256, "source": info.source}


def _checked(threshold: Any, name: str) -> float:
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise JudgeError(f"judge '{name}' has a threshold from 0 to 1, not {threshold!r}.")
    return float(threshold)


class OfVerifier:
    """The factory of the judge that a registered verifier makes; it takes the verifier's own options, and `threshold`."""

    def __init__(self, name: str) -> None:
        self._name = name
        own = inspect.signature(verifiers.REGISTRY.get(name))
        known = list(own.parameters.values())
        self._has_one = "threshold" in own.parameters  # a verifier's own option of that name stays its own
        spread = [known.pop()] if known and known[-1].kind is inspect.Parameter.VAR_KEYWORD else []
        threshold = inspect.Parameter("threshold", inspect.Parameter.KEYWORD_ONLY, default=None)
        added = [] if self._has_one else [threshold]
        self.__signature__ = own.replace(parameters=[*known, *added, *spread])

    def __call__(self, **options: Any) -> VerifierJudge:
        threshold = None if self._has_one else options.pop("threshold", None)
        return VerifierJudge(verifiers.create(self._name, **options), threshold)

    def identity(self, **options: Any) -> dict[str, Any]:
        """See Registry.identity."""
        threshold = None if self._has_one else options.pop("threshold", None)
        found = verifiers.REGISTRY.identity(self._name, **options)
        return found if threshold is None else found | {"threshold": threshold}
