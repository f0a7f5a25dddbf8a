"""Parts of models written so that a GPU's compiler and libraries compute them well; results are the same up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Function = Callable[[torch.Tensor], torch.Tensor]


def rewrite(model: nn.Module) -> None:
    """Change in place how a model that is about to be compiled computes what cuDNN or inductor is slow at."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.groups > 1 and _of_single_pixels(module):
            changed: Any = module
            changed.forward = grouped_product(module)
    norm: Any = getattr(model, "norm_out", None)
    if isinstance(norm, nn.Module):
        norm.forward = apart(norm.forward)


def _of_single_pixels(convolution: nn.Conv2d) -> bool:
    return convolution.kernel_size == convolution.stride == (1, 1) and convolution.padding == (0, 0)


def grouped_product(convolution: nn.Conv2d) -> Function:
    """Return a 1x1 convolution of G groups as one product of G matrices, where cuDNN launches kernels for each group."""

    def forward(x: torch.Tensor) -> torch.Tensor:
        groups, weight, bias = convolution.groups, convolution.weight, convolution.bias
        rows = x.movedim(1, -1).unflatten(-1, (groups, -1))
        found = torch.einsum("bhwgi,goi->bhwgo", rows, weight.reshape(groups, -1, weight.shape[1]))
        flat = found.flatten(-2)
        return (flat if bias is None else flat + bias).movedim(-1, 1)

    return forward


def apart(norm: Function) -> Function:
    """Return a norm that is compiled apart from what is before it.

    Inductor fuses two norms in a row into one kernel, which on an H200 takes six times as long as both.
    """

    def forward(x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return norm(x)

    return forward
