"""Hidden states and latents as visual tokens [B, T, C], and the normalisation of hidden states."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from vhsbench.harness.common import torch_files
from vhsbench.harness.common.files import ReadError, read_errors_as
from vhsbench.harness.common.models import FLOATS, check_weights
from vhsbench.harness.common.tensors import load_tensors
from vhsbench.verifiers.checkpoint import STATISTICS, CheckpointError

_EPSILON = 1e-6


class Normalize(nn.Module):
    """Hidden features less their mean, over their standard deviation (A.2), per channel [C] or token [T, 1]."""

    def __init__(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("variance", variance)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Normalise features [B, T, C] in the promoted dtype of features and statistics, as the release does."""
        mean, variance = self.mean, self.variance
        assert isinstance(mean, torch.Tensor)
        assert isinstance(variance, torch.Tensor)
        dtype = torch.promote_types(features.dtype, mean.dtype)
        return (features.to(dtype) - mean.to(dtype)) / torch.sqrt(variance.to(dtype) + _EPSILON)


def read_statistics(source: Path | tuple[Path, Path], width: int, tokens: int) -> Normalize:
    """Read the normalisation in a checkpoint's folder, or in a pair of .pt files (mean, variance).

    Accepts one value per channel ([C], [1, C], [1, 1, C]) or per token ([T], [T, 1], [1, T, 1]); if C
    equals T, a last axis of one means tokens. Raises CheckpointError if it is missing or has another shape.
    """
    if isinstance(source, tuple):
        mean, variance = (_tensor(Path(file)) for file in source)
        names = [str(file) for file in source]
    else:
        file = source / STATISTICS
        if not file.is_file():
            raise CheckpointError(
                f"VHS checkpoint {source} has no {STATISTICS}; "
                "give normalization=(mean, variance), two .pt files."
            )
        with read_errors_as(CheckpointError):
            found = load_tensors(file)
        for key in ("mean", "variance"):
            if key not in found:
                raise CheckpointError(f"{file} lacks the key '{key}'.")
        mean, variance = found["mean"], found["variance"]
        with read_errors_as(CheckpointError):
            check_weights({"mean": mean, "variance": variance}, file)
        names = [f"{file}: 'mean'", f"{file}: 'variance'"]
    mean = _oriented(mean, width, tokens, names[0])
    variance = _oriented(variance, width, tokens, names[1])
    if not (torch.isfinite(mean).all() and torch.isfinite(variance).all() and (variance >= 0).all()):
        raise CheckpointError(
            f"{names[0]} and {names[1]} are not a finite mean and a variance of at least 0."
        )
    return Normalize(mean, variance)


def _tensor(file: Path) -> torch.Tensor:
    if not file.is_file():
        raise CheckpointError(f"the statistics file {file} does not exist.")
    try:
        value = torch_files.read(file)
    except ReadError as error:
        why = str(error).removeprefix(f"{file}: ")
        raise CheckpointError(f"the statistics file {file} is not a tensor saved by torch: {why}") from error
    if not isinstance(value, torch.Tensor) or value.dtype not in FLOATS:
        raise CheckpointError(f"the statistics file {file} holds no tensor of floating-point numbers.")
    with read_errors_as(CheckpointError):
        torch_files.check_plain(value, f"the statistics file {file}")
    return value.detach().clone()  # no longer tied to the file


def _oriented(values: torch.Tensor, width: int, tokens: int, name: str) -> torch.Tensor:
    """Reshape values to [C] or [T, 1]."""
    flat = values.dim() > 0 and values.numel() == max(values.shape)
    column = values.dim() > 1 and values.shape[-1] == 1
    if flat and not column and values.numel() == width:
        return values.reshape(width)
    if flat and values.numel() == tokens:
        return values.reshape(tokens, 1)
    either = f" or [{tokens}] (one a token)" if tokens else ""
    raise CheckpointError(f"{name} has shape {list(values.shape)}, not [{width}] (one a channel){either}.")


def flatten_latents(latents: torch.Tensor) -> torch.Tensor:
    """Flatten latents [B, C, h, w] to tokens [B, h*w, C], row by row (A.2)."""
    return latents.flatten(2).transpose(1, 2)
