"""Parts of models written so that a GPU's compiler and libraries compute them well; results are the same up to rounding."""

from __future__ import annotations

import torch
from torch import nn


def rewrite(model: nn.Module) -> None:
    """Replace parts of a model that is about to be compiled, where cuDNN or inductor is slow at them."""
    for parent in list(model.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, nn.Conv2d) and part.groups > 1 and _of_single_pixels(part):
                setattr(parent, name, GroupedProduct(part))
    norm = getattr(model, "norm_out", None)
    if isinstance(norm, nn.Module):
        model.norm_out = Apart(norm)


def _of_single_pixels(convolution: nn.Conv2d) -> bool:
    return convolution.kernel_size == convolution.stride == (1, 1) and convolution.padding == (0, 0)


class GroupedProduct(nn.Module):
    """A 1x1 convolution of G groups, [B, C, H, W], as one product of G matrices; cuDNN launches kernels for each group."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        groups, weight, bias = self.convolution.groups, self.convolution.weight, self.convolution.bias
        rows = x.movedim(1, -1).unflatten(-1, (groups, -1))
        found = torch.einsum("bhwgi,goi->bhwgo", rows, weight.reshape(groups, -1, weight.shape[1]))
        flat = found.flatten(-2)
        return (flat if bias is None else flat + bias).movedim(-1, 1)


class Apart(nn.Module):
    """A norm that is compiled by itself.

    Inductor fuses two norms in a row into one kernel, which on an H200 takes about three times as long as both.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        found: torch.Tensor = self.norm(x)
        return found
