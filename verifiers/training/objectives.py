"""The objectives of the two stages: the caption's tokens, then yes or no."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import nn

from vhsbench.verifiers.mllm import Mllm, Question, pad
from vhsbench.verifiers.training.losses import IGNORED, class_weights
from vhsbench.verifiers.training.recipe import LossRecipe
from vhsbench.verifiers.training.samples import Rows

END = "<|im_end|>"


@dataclass(frozen=True)
class Texts:
    """The words around a batch's images, and the tokens to predict.

    before [b] and after [B, a] are ids; `at` [B, P] are the places in the sequence whose logits are needed,
    `target` [B, P] ids or IGNORED, `weight` [B, P].
    """

    before: torch.Tensor
    after: torch.Tensor
    at: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor

    def to(self, device: torch.device) -> Texts:
        return Texts(*(getattr(self, name).to(device) for name in self.__dataclass_fields__))


class Objective(Protocol):
    """One stage's question and answers. The loss is the weighted mean of focal_losses over a batch."""

    gamma: float

    def texts(self, rows: Rows, visual_tokens: int) -> Texts: ...

    def weight(self, rows: Rows) -> float:
        """Return the sum of a batch's weights, which divides its loss."""
        ...


class Captioning:
    """Stage 1: the caption follows the image, token by token."""

    gamma = 0.0

    def __init__(self, question: Question, template: str) -> None:
        ask = Question(question.tokenizer, template)
        self._tokenizer = question.tokenizer
        self._before = torch.tensor(ask.before_ids)
        self._after = ask.after_ids([""])[0][0].tolist()
        self._end = cast(int, question.tokenizer.convert_tokens_to_ids(END))  # of one token, one number
        self._known: dict[str, list[int]] = {}

    def texts(self, rows: Rows, visual_tokens: int) -> Texts:
        ids = pad([self._after + self._caption(row["caption"]) for row in rows], IGNORED)[0]
        target = ids[:, len(self._after) :]
        first = len(self._before) + visual_tokens + len(self._after) - 1
        at = torch.arange(first, first + target.shape[1]).expand_as(target)
        return Texts(self._before, ids.clamp(min=0), at, target, (target != IGNORED).float())

    def weight(self, rows: Rows) -> float:
        return float(sum(len(self._caption(row["caption"])) for row in rows))

    def _caption(self, text: str) -> list[int]:
        if text not in self._known:
            self._known[text] = [*self._tokenizer.encode(text, add_special_tokens=False), self._end]
        return self._known[text]


class YesNo:
    """Stage 2: the answer's token alone, as a score reads it."""

    def __init__(self, question: Question, loss: LossRecipe, correct: torch.Tensor) -> None:
        """`correct` [S] are all training labels. Raises LabelError if they are of one class."""
        shares = class_weights(correct)
        self.weights = shares if loss.weights == "auto" else loss.weights
        self.gamma = loss.focus
        self.question = question
        self._before = torch.tensor(question.before_ids)

    def texts(self, rows: Rows, visual_tokens: int) -> Texts:
        after, lengths = self.question.after_ids([row["prompt"] for row in rows])
        correct = torch.tensor([bool(row["correct"]) for row in rows])
        target = torch.where(correct, self.question.yes, self.question.no)
        at = len(self._before) + visual_tokens - 1 + lengths
        return Texts(self._before, after, at[:, None], target[:, None], self._of(correct)[:, None])

    def weight(self, rows: Rows) -> float:
        return float(self._of(torch.tensor([bool(row["correct"]) for row in rows])).sum())

    def _of(self, correct: torch.Tensor) -> torch.Tensor:
        return torch.where(correct, self.weights[1], self.weights[0])

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        """Compute P(yes) and P(no) [B, 2] from answer logits [B, 1, V]."""
        ids = torch.tensor([self.question.yes, self.question.no], device=logits.device)
        return logits[:, 0].float().softmax(-1)[:, ids]


class Reader(nn.Module):
    """The module that DDP and FSDP wrap: one forward from visual tokens to the logits needed."""

    def __init__(self, mllm: Mllm) -> None:
        super().__init__()
        self.mllm = mllm

    def forward(
        self, before: torch.Tensor, visual: torch.Tensor, after: torch.Tensor, at: torch.Tensor
    ) -> torch.Tensor:
        """Compute logits [B, P, V] at the places `at` [B, P] of [before | visual | after]."""
        states = self.mllm.states(before, visual, after)
        rows = torch.arange(len(at), device=at.device)[:, None]
        return self.mllm.logits(states[rows, at])


def captions_of(rows: Sequence[dict[str, object]]) -> bool:
    """Tell whether every row has a caption."""
    return all(row.get("caption") for row in rows)
