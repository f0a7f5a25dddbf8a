"""The questions that a prompt is judged by: their form in a prompt's metadata, and how answers become one value.

`questions` of a prompt's metadata is a list of objects with "question", "answer" (what a right image gives; "yes" by
default) and "parents" (places in the list, from 0, of questions without which this one means nothing; none by default).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.limits import LONGEST_PROMPT

Combine = Literal["arithmetic", "geometric", "share"]
COMBINE: tuple[Combine, ...] = get_args(Combine)
MOST_QUESTIONS = 1000  # of a prompt
_KEYS = ("question", "answer", "parents")


class QuestionError(VhsbenchError):
    """Questions that no image can be judged by; the message is one sentence for a user."""


@dataclass(frozen=True)
class Question:
    """A question about an image, its right answer, and the places of the questions that it depends on."""

    question: str
    answer: str = "yes"
    parents: tuple[int, ...] = ()

    def as_metadata(self) -> dict[str, Any]:
        """Return it as a prompt's metadata has it: plain JSON."""
        return asdict(self) | {"parents": list(self.parents)}


def questions_of(metadata: Mapping[str, Any], where: str) -> list[Question]:
    """Read a prompt's questions; `where` is its place. Raises QuestionError if there are none, or one is odd."""
    rows = metadata.get("questions")
    if not isinstance(rows, list) or not 1 <= len(rows) <= MOST_QUESTIONS:
        raise QuestionError(f"{where}: 'questions' is needed, a list of 1 to {MOST_QUESTIONS:,} questions.")
    return [_question(row, len(rows), f"{where}, key 'questions.{i}'") for i, row in enumerate(rows)]


def _question(row: Any, count: int, where: str) -> Question:
    if not isinstance(row, Mapping) or "question" not in row or not row.keys() <= set(_KEYS):
        raise QuestionError(
            f"{where}: an object with 'question' is needed, and no keys but {', '.join(_KEYS)}."
        )
    parents = row.get("parents", [])
    if not isinstance(parents, list):
        raise QuestionError(f"{where}: 'parents' is a list, not {type(parents).__name__}.")
    found = Question(row["question"], row.get("answer", "yes"), tuple(parents))
    for text in (found.question, found.answer):
        if not isinstance(text, str) or not text.strip() or len(text) > LONGEST_PROMPT:
            raise QuestionError(f"{where}: a text of 1 to {LONGEST_PROMPT:,} characters is needed.")
    for parent in found.parents:
        if isinstance(parent, bool) or not isinstance(parent, int) or not 0 <= parent < count:
            raise QuestionError(f"{where}: a parent is the place of one of its {count} questions, from 0.")
    return found


def value(right: Sequence[float], questions: Sequence[Question], combine: Combine = "arithmetic") -> float:
    """Combine the probabilities [Q] of the right answers into a value in 0..1.

    arithmetic, geometric: Soft-TIFA's two means. share: that of questions whose right answer is more likely than not.
    A question with a parent that is answered wrongly counts as 0; questions are taken in order, as by DPG-Bench, so
    that what depends on such a question counts as 0 too.
    """
    likely = np.asarray(right, dtype=np.float64)
    if likely.shape != (len(questions),) or not len(questions) or not np.all((likely >= 0) & (likely <= 1)):
        raise ValueError(f"{len(questions)} questions need as many probabilities, at least one, not {right}.")
    counted = np.where(likely > 0.5, 1.0, 0.0) if combine == "share" else likely.copy()
    holds = likely > 0.5
    for i, question in enumerate(questions):
        if not all(holds[parent] for parent in question.parents):
            counted[i], holds[i] = 0.0, False
    if combine == "geometric":
        return float(np.exp(np.log(counted).mean())) if counted.all() else 0.0
    return float(counted.mean())
