"""Convolutions written so that a GPU's compiler and libraries compute them well; results are the same up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

Function = Callable[[torch.Tensor], torch.Tensor]


def rewrite(model: nn.Module) -> None:
    """Change in place how a model that is about to be compiled computes what cuDNN or inductor is slow at."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and _keeps_size(module):
            changed: Any = module
            if module.groups > 1 and module.kernel_size == (1, 1):
                changed.forward = grouped_product(module)
    norm: Any = getattr(model, "norm_out", None)
    if isinstance(norm, nn.Module):
        norm.forward = apart(norm.forward)


def _keeps_size(convolution: nn.Conv2d) -> bool:
    """Return whether the output is as large as the input, by zeros around it."""
    around = tuple(size // 2 for size in convolution.kernel_size)
    steps = convolution.stride, convolution.dilation
    return convolution.padding == around and steps == ((1, 1), (1, 1)) and convolution.padding_mode == "zeros"


def grouped_product(convolution: nn.Conv2d) -> Function:
    """Return a 1x1 convolution of G groups as one product of G matrices, where cuDNN launches kernels for each group."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        groups, weight, bias = convolution.groups, convolution.weight, convolution.bias
        rows = x.movedim(1, -1).unflatten(-1, (groups, -1))
        found = torch.einsum("bhwgi,goi->bhwgo", rows, weight.reshape(groups, -1, weight.shape[1])).flatten(
            -2
        )
        return (found if bias is None else found + bias).movedim(-1, 1)

    return forward


def depthwise_sum(convolution: nn.Conv2d) -> Function:
    """Return a depthwise convolution as a sum over its kernel's places, which is compiled into one pass with what follows."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        weight, bias, (high, wide) = convolution.weight, convolution.bias, convolution.kernel_size
        height, width = x.shape[-2:]
        padded = pad(x, (wide // 2, wide // 2, high // 2, high // 2))
        terms = [
            padded[..., dy : dy + height, dx : dx + width].float() * weight[:, 0, dy, dx, None, None].float()
            for dy in range(high)
            for dx in range(wide)
        ]
        found = sum(terms[1:], terms[0])
        return (found if bias is None else found + bias[:, None, None].float()).to(x.dtype)

    return forward


def apart(norm: Function) -> Function:
    """Return a norm that is compiled apart from what is before it.

    Inductor fuses two norms in a row into one kernel, which on an H200 takes six times as long as both.
    """

    def forward(x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return norm(x)

    return forward
