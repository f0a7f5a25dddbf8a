"""The LLM's MLPs in 8-bit floats: weights rounded once by output channel, activations at every call."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

FLOAT8 = torch.float8_e4m3fn
LARGEST = 448.0  # of its values
CAPABILITY = (8, 9)  # of the first NVIDIA GPUs that multiply them
_MULTIPLE = 16  # of channels, which their products take


class Fp8Linear(nn.Module):
    """Computes what `layer` does, up to rounding: x [..., K] -> [..., M], in x's dtype; its sums are of higher precision.

    Activations are scaled by token, to 448 at most, or not at all: to find a token's largest value costs a second pass
    over activations that no norm reads anyway, and a float has small values as well. Beyond 448 they are cut.
    """

    levels: torch.Tensor  # [M, K]
    scale: torch.Tensor  # [1, M]

    def __init__(self, layer: nn.Linear, by_token: bool = True) -> None:
        super().__init__()
        levels, scale = _rounded(layer.weight.detach().float())
        self.register_buffer("levels", levels)
        self.register_buffer("scale", scale.t().contiguous())
        self.bias, self.by_token = layer.bias, by_token

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.flatten(0, -2).float()
        if self.by_token:
            read, by = _rounded(rows)
        else:
            read, by = rows.clamp(-LARGEST, LARGEST).to(FLOAT8), rows.new_ones(len(rows), 1)
        if x.is_cuda:
            product = torch._scaled_mm(
                read,
                self.levels.t(),
                scale_a=by,
                scale_b=self.scale,
                out_dtype=torch.bfloat16,
                use_fast_accum=True,
            )
        else:  # has no such product: the same rounding, for its effect on results
            product = (read.float() @ self.levels.float().t()) * by * self.scale
        if self.bias is not None:
            product = product + self.bias
        return product.to(x.dtype).reshape(*x.shape[:-1], -1)


def _rounded(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 8-bit floats [R, C] and float32 scales [R, 1] whose product is near `values`."""
    scale = values.abs().amax(-1, keepdim=True).clamp(min=1e-12) / LARGEST
    return (values / scale).to(FLOAT8), scale


def quantize(llm: Any) -> int:
    """Put Fp8Linears in the place of the linear layers of a Qwen2 model's MLPs; returns how many.

    Those of attention are a tenth of the work, and no faster so. Layers whose channels are no multiples of 16 stay.
    """
    count = 0
    for layer in llm.layers:
        for name, by_token in (("gate_proj", True), ("up_proj", True), ("down_proj", False)):
            exact = getattr(layer.mlp, name)
            if all(size % _MULTIPLE == 0 for size in exact.weight.shape):
                setattr(layer.mlp, name, Fp8Linear(exact, by_token))
                count += 1
    return count
