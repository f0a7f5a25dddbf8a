"""The LLM's MLPs in 8-bit floats: weights rounded once by output channel, activations at every call."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

FLOAT8 = torch.float8_e4m3fn
LARGEST = 448.0  # of its values
CAPABILITY = (8, 9)  # the first compute capability with products of 8-bit floats
_MULTIPLE = 16  # channels must be multiples of this


class Fp8Linear(nn.Module):
    """Computes what `layer` does, up to rounding: x [..., K] -> [..., M], in x's dtype; on a GPU rounded to bfloat16 first.

    `by_token` scales each token's input to at most 448. Otherwise inputs are not scaled, which saves a pass over them:
    values beyond 448 are clamped, and those below 0.001 become 0.
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
        return product.to(x.dtype).reshape(*x.shape[:-1], len(self.levels))


def _rounded(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return 8-bit floats [R, C] and float32 scales [R, 1] whose product is near `values`."""
    scale = values.abs().amax(-1, keepdim=True).clamp(min=1e-12) / LARGEST
    return (values / scale).to(FLOAT8), scale


def quantize(llm: nn.Module) -> int:
    """Put Fp8Linears in the place of the linear layers of a Qwen2 model's MLPs; returns how many.

    Those of attention, a tenth of the work, stay, and so do layers whose channels are no multiples of 16.
    """
    count = 0
    mlps: list[Any] = [module for module in llm.modules() if hasattr(module, "down_proj")]
    for mlp in mlps:
        for name, by_token in (("gate_proj", True), ("up_proj", True), ("down_proj", False)):
            exact = getattr(mlp, name)
            if all(size % _MULTIPLE == 0 for size in exact.weight.shape):
                setattr(mlp, name, Fp8Linear(exact, by_token))
                count += 1
    return count
