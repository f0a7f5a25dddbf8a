"""Scores by a VLM's answers: VQAScore and Soft-TIFA."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from vhsbench.harness.common.questions import COMBINE, Combine, Question, questions_of, value
from vhsbench.harness.common.registry import nearest
from vhsbench.harness.common.shown import printable
from vhsbench.verifiers.checkpoint import CheckpointError
from vhsbench.verifiers.scorers.atoms import atoms
from vhsbench.verifiers.scorers.scorer import Scorer

if TYPE_CHECKING:
    from PIL import Image

    from vhsbench.verifiers.scorers.vlm import Vlm

VQA_QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class VqaScore(Scorer):
    """VQAScore (Lin et al. 2024): the probability of "Yes" to the question whether the image shows the text."""

    threshold: float | None = 0.5  # yes is more likely than all else
    _model: Vlm

    def scores(self, prompts: list[str], images: list[Image.Image]) -> torch.Tensor:
        """Compute VQAScore, 0 to 1."""
        questions = [VQA_QUESTION.format(prompt) for prompt in prompts]
        return self._model.likely(questions, images, [("Yes",)] * len(prompts))

    def value(self, score: torch.Tensor) -> torch.Tensor:
        """See Verifier.value: the probability itself."""
        return score.clamp(0, 1)


class SoftTifa(VqaScore):
    """Soft-TIFA (GenEval 2): the mean probability of the right answers to questions about a prompt's atoms.

    A prompt's own questions count (`prepare`), else those that its text asks. combine: how they become one score.
    """

    def __init__(self, name: str, model: Vlm, *, combine: Combine = "geometric", **known: Any) -> None:
        super().__init__(name, model, **known)
        if combine not in COMBINE:
            raise CheckpointError(
                f"unknown combine '{combine}' of '{name}'; {nearest(str(combine), list(COMBINE))}"
            )
        self._combine: Combine = combine
        self._asked: dict[str, list[Question]] = {}

    def prepare(self, prompts: Iterable[Mapping[str, Any]]) -> None:
        """Take note of the questions of prompts that have them. Raises QuestionError."""
        for prompt in prompts:
            if "questions" in prompt:
                text = str(prompt["prompt"])
                self._asked[text] = questions_of(prompt, f"prompt '{printable(text)}'")

    def scores(self, prompts: list[str], images: list[Image.Image]) -> torch.Tensor:
        """Compute Soft-TIFA, 0 to 1."""
        asked = [self._asked.get(prompt) or atoms(prompt) for prompt in prompts]
        rows = [(question, image) for row, image in zip(asked, images, strict=True) for question in row]
        likely = self._model.likely(
            [f"{question.question} Answer in one word." for question, _ in rows],
            [image for _, image in rows],
            [answers(question.answer) for question, _ in rows],
        )
        parts = likely.cpu().split([len(row) for row in asked])
        means = [
            value(part.clamp(0, 1).tolist(), row, self._combine)
            for part, row in zip(parts, asked, strict=True)
        ]
        return torch.tensor(means, device=likely.device)


def answers(right: str) -> tuple[str, ...]:
    """Return the forms of a right answer, as GenEval 2 counts them: either case, with a space or not, digits of numbers."""
    digit = [str(_DIGITS.index(right.lower()))] if right.lower() in _DIGITS else []
    words = dict.fromkeys([right, right.lower(), right.capitalize(), *digit])
    return tuple(space + word for space in ("", " ") for word in words)
