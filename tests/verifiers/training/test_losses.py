from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vhsbench.verifiers.training.losses import IGNORED, LabelError, class_weights, focal_losses, weighted_mean

# a vocabulary of three: yes = 0, no = 1; rows are one right and one wrong candidate
LOGITS = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.7, 0.1]]))
TARGET = torch.tensor([0, 1])


def test_class_weights_are_the_other_classs_share():
    correct = torch.tensor([True] * 63 + [False] * 37)
    no, yes = class_weights(correct)
    assert (yes, no) == pytest.approx((0.37, 0.63))  # the paper's 0.37 positive, 0.63 negative


def test_labels_of_one_class_are_refused():
    with pytest.raises(LabelError, match="all of one class"):
        class_weights(torch.ones(4, dtype=torch.bool))


def test_weighted_cross_entropy_by_hand():
    loss = weighted_mean(focal_losses(LOGITS, TARGET), torch.tensor([0.37, 0.63]))
    by_hand = (0.37 * -math.log(0.5) + 0.63 * -math.log(0.7)) / (0.37 + 0.63)
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


def test_focal_loss_by_hand():
    """Eq. 4 with gamma 2: -(1 - 0.5)^2 log 0.5 = 0.173287 and -(1 - 0.7)^2 log 0.7 = 0.032101."""
    losses = focal_losses(LOGITS, TARGET, gamma=2.0)
    assert losses.tolist() == pytest.approx([0.25 * 0.6931472, 0.09 * 0.3566749], rel=1e-5)
    weighted = weighted_mean(losses, torch.tensor([0.37, 0.63]))
    assert weighted.item() == pytest.approx(0.37 * 0.1732868 + 0.63 * 0.0321007, rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_ignored_tokens_cost_nothing_and_gradients_are_finite_where_p_is_one(gamma):
    logits = torch.tensor([[80.0, 0.0], [0.0, 80.0], [1.0, 2.0]], requires_grad=True)
    losses = focal_losses(logits, torch.tensor([0, 0, IGNORED]), gamma)
    assert losses.tolist() == [0, pytest.approx(80.0), 0]
    losses.sum().backward()
    assert torch.isfinite(logits.grad).all()


@given(st.floats(0.01, 0.99), st.floats(0.0, 5.0))
def test_focal_loss_never_exceeds_cross_entropy(p, gamma):
    logits = torch.tensor([[p, 1 - p]]).log()
    target = torch.tensor([0])
    plain = focal_losses(logits, target).item()
    assert focal_losses(logits, target, gamma).item() == pytest.approx(
        (1 - p) ** gamma * plain, rel=1e-3, abs=1e-6
    )
