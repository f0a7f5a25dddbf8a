from __future__ import annotations

import math

import pytest
import torch

from verifiers.checkpoint import VerifierCard
from verifiers.nano.models import TEMPLATE, build_verifier
from verifiers.training import Examples, align, class_weights, finetune, yes_no_loss


def test_class_weights_are_the_other_classs_share():
    correct = torch.tensor([True] * 63 + [False] * 37)
    no, yes = class_weights(correct)
    assert (yes, no) == pytest.approx((0.37, 0.63))  # the paper's 0.37 positive, 0.63 negative


def test_labels_of_one_class_are_refused():
    with pytest.raises(ValueError, match="all of one class"):
        class_weights(torch.ones(4, dtype=torch.bool))


def test_weighted_cross_entropy_by_hand():
    # a vocabulary of three: yes = 0, no = 1
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.7, 0.1]]))
    loss = yes_no_loss(logits, torch.tensor([True, False]), 0, 1, (0.63, 0.37))
    by_hand = (0.37 * -math.log(0.5) + 0.63 * -math.log(0.7)) / (0.37 + 0.63)
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)


def test_both_stages_learn(tmp_path):
    """Two kinds of features with two captions and two labels, which a few steps must tell apart."""
    torch.manual_seed(0)
    model, question = build_verifier(VerifierCard("mllm-ae", "nano", None, 16, 4, TEMPLATE), 0)
    right = torch.arange(64) % 2 == 0
    visual = torch.where(right[:, None, None], 1.0, -1.0) + 0.1 * torch.randn(64, 4, 16)
    examples = Examples(
        visual,
        ["a photo of a star"] * 64,
        ["a red star at center" if r else "a blue ring at top left" for r in right],
        right,
    )
    losses: list[float] = []
    options = {"batch": 16, "seed": 0, "state_file": tmp_path / "state"}
    align(
        model, question, examples, steps=50, connector_only=False,
        report=lambda p: losses.append(p.loss), **options,
    )  # fmt: skip
    assert losses[-1] < losses[0] - 1.0  # an average over the last fifty steps
    _, best = finetune(
        model, question, examples, examples, steps=100, validate_every=20,
        report=lambda p: None, **options,
    )  # fmt: skip
    assert best < 0.3
