"""Captioning alignment and yes/no fine-tuning of a verifier on features that are already there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from generators.training import Progress, Validation, device_of, fit, muon_and_adamw
from verifiers.mllm import Mllm, Question, pad

Report = Callable[[Progress], None]
CAPTION_TEMPLATE = "<image> describe the image"
END = "<|im_end|>"


@dataclass(frozen=True)
class Examples:
    """Candidates for training: visual tokens [S, T, C] (already normalised), prompts, captions, labels."""

    visual: torch.Tensor
    prompts: Sequence[str]
    captions: Sequence[str]
    correct: torch.Tensor  # [S] bool


def class_weights(correct: torch.Tensor) -> tuple[float, float]:
    """(weight of "no", weight of "yes"): each class's weight is the other's share, as A.3's 0.63/0.37."""
    share = correct.float().mean().item()
    if share in (0.0, 1.0):
        raise ValueError("the labels are all of one class; a verifier needs right and wrong candidates.")
    return share, 1.0 - share


def yes_no_loss(
    logits: torch.Tensor, correct: torch.Tensor, yes: int, no: int, weights: tuple[float, float]
) -> torch.Tensor:
    """Class-weighted cross entropy of the answer token over the whole vocabulary (A.3).

    logits [B, V], correct [B] bool; weights are (no, yes). The mean is over the weights' sum.
    """
    target = torch.where(correct, yes, no)
    weight = torch.where(correct, weights[1], weights[0])
    losses = F.cross_entropy(logits.float(), target, reduction="none")
    return (weight * losses).sum() / weight.sum()


def answer_logits(
    model: Mllm, question: Question, visual: torch.Tensor, prompts: Sequence[str]
) -> torch.Tensor:
    """Logits [B, V] of the answer's position."""
    device = device_of(model)
    after, lengths = question.after_ids(prompts)
    before = torch.tensor(question.before_ids, device=device)
    states = model.states(before, visual.to(device, torch.float32), after.to(device))
    start = len(question.before_ids) + visual.shape[1] - 1
    return model.logits(states[torch.arange(len(prompts)), start + lengths])


def align(
    model: Mllm,
    question: Question,
    examples: Examples,
    *,
    steps: int,
    batch: int,
    seed: int,
    state_file: Path,
    report: Report,
    learning_rates: tuple[float, float] = (2e-3, 1e-3),
    connector_only: bool = True,
) -> float:
    """Stage 1: next-token loss on the caption. Returns the seconds spent.

    The paper trains the connector alone, under a pretrained LLM. Where the LLM is new, as in nano,
    it learns to speak here: connector_only=False.
    """
    ask = Question(question.tokenizer, CAPTION_TEMPLATE)
    end = question.tokenizer.convert_tokens_to_ids(END)
    encode = question.tokenizer.encode
    device = device_of(model)
    before = torch.tensor(ask.before_ids, device=device)
    after = ask.after_ids([""])[0][0].tolist()
    captions = [[*encode(c, add_special_tokens=False), end] for c in examples.captions]

    def loss(step: int) -> torch.Tensor:
        rows = np.random.default_rng((seed, step)).integers(len(captions), size=batch).tolist()
        ids, _lengths = pad([after + captions[i] for i in rows], -100)
        ids = ids.to(device)
        with torch.autocast(device.type, torch.bfloat16):
            visual = examples.visual[rows].to(device, torch.float32)
            states = model.states(before, visual, ids.clamp(min=0))
            first = len(before) + examples.visual.shape[1] + len(after) - 1
            logits = model.logits(states[:, first:-1]).float()
        return F.cross_entropy(logits.flatten(0, 1), ids[:, len(after) :].flatten(), ignore_index=-100)

    trained = [model.connector] if connector_only else [model]
    return fit(
        "align", [model], loss, muon_and_adamw(trained, *learning_rates), steps, state_file,
        report=report,
    )  # fmt: skip


def finetune(
    model: Mllm,
    question: Question,
    train: Examples,
    validation: Examples,
    *,
    steps: int,
    batch: int,
    seed: int,
    state_file: Path,
    report: Report,
    learning_rates: tuple[float, float] = (1e-3, 5e-4),
    validate_every: int = 100,
) -> tuple[float, float]:
    """Stage 2: class-weighted cross entropy on yes/no; the best validation loss is kept.

    Returns the seconds spent and the best validation loss.
    """
    weights = class_weights(train.correct)
    device = device_of(model)

    def loss(step: int) -> torch.Tensor:
        rows = np.random.default_rng((seed, 1, step)).integers(len(train.prompts), size=batch)
        index = rows.tolist()
        with torch.autocast(device.type, torch.bfloat16):
            logits = answer_logits(model, question, train.visual[index], [train.prompts[i] for i in index])
        correct = train.correct[index].to(device)
        return yes_no_loss(logits, correct, question.yes, question.no, weights)

    @torch.no_grad()
    def validate() -> float:
        logits = torch.cat(
            [
                answer_logits(model, question, part, validation.prompts[i * 256 : i * 256 + 256])
                for i, part in enumerate(validation.visual.split(256))
            ]
        )
        correct = validation.correct.to(device)
        return yes_no_loss(logits, correct, question.yes, question.no, weights).item()

    keep = Validation(validate, validate_every)
    seconds = fit(
        "finetune", [model], loss, muon_and_adamw([model], *learning_rates), steps, state_file,
        report=report, validation=keep,
    )  # fmt: skip
    return seconds, keep.best
