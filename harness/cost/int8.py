"""Linear layers in 8 bits: weights rounded once by output channel, activations at every call by token."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import linear

_LEVELS = 127
_FEWEST_ROWS = 17  # that CUDA's product of integers takes


class Int8Linear(nn.Module):
    """Computes what `layer` does, up to rounding: x [..., K] -> [..., M], in x's dtype."""

    levels: torch.Tensor  # [M, K]
    scale: torch.Tensor  # [M, 1]

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        levels, scale = _rounded(layer.weight.detach())
        self.register_buffer("levels", levels)
        self.register_buffer("scale", scale)
        self.bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, -2)
        if len(rows) < _FEWEST_ROWS:
            return linear(x, (self.levels * self.scale).to(x.dtype), self.bias)
        read, by = _rounded(rows)
        product = torch._int_mm(read, self.levels.t()) * by * self.scale.t()
        if self.bias is not None:
            product = product + self.bias
        return product.to(x.dtype).reshape(*x.shape[:-1], -1)


def _rounded(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return integers -127..127 [R, C] and float32 scales [R, 1] whose product is near `values`."""
    values = values.float()
    scale = values.abs().amax(-1, keepdim=True).clamp(min=1e-12) / _LEVELS
    return (values / scale).round().to(torch.int8), scale


def quantize(module: nn.Module) -> int:
    """Put an Int8Linear in the place of every linear layer of a module; returns how many."""
    found = [
        (parent, name, layer)
        for parent in module.modules()
        for name, layer in parent.named_children()
        if isinstance(layer, nn.Linear)
    ]
    for parent, name, layer in found:
        setattr(parent, name, Int8Linear(layer))
    return len(found)
