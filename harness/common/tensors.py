"""Safetensors files that others made: regular, with a header of bounded size, and tensors of few dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.files import SMALL, ReadError, check_regular

if TYPE_CHECKING:
    import torch

HEADER = SMALL  # bytes of the list of tensors: some 100,000 of them
DIMENSIONS = 8
_LENGTH = 8  # bytes of a file that say how long its header is


@contextmanager
def open_tensors(file: Path, device: str = "cpu") -> Iterator[Any]:
    """What safetensors' safe_open gives, once the file was checked. Raises ReadError, in the block too."""
    from safetensors import SafetensorError, safe_open

    check_regular(file)
    try:
        with open(file, "rb") as stream:
            _check_header(stream.read(_LENGTH), str(file))
        with safe_open(file, "pt", device=device) as tensors:
            for key in tensors.keys():  # noqa: SIM118
                _check_shape(tensors.get_slice(key).get_shape(), f"{file}: '{key}'")
            yield tensors
    except (OSError, SafetensorError) as error:
        raise ReadError(f"{file} is damaged: {_first_line(error)}.") from error


def load_tensors(file: Path) -> dict[str, torch.Tensor]:
    """All tensors of a file, by key. Raises ReadError."""
    with open_tensors(file) as tensors:
        return {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118


def parse_tensors(data: bytes, name: str) -> dict[str, torch.Tensor]:
    """All tensors of a file's bytes; `name` names it in errors. Raises ReadError."""
    from safetensors import SafetensorError, deserialize
    from safetensors.torch import load

    _check_header(data[:_LENGTH], name)
    try:
        for key, tensor in deserialize(data):
            _check_shape(tensor["shape"], f"{name}: '{key}'")
        return load(data)
    except SafetensorError as error:
        raise ReadError(f"{name} is damaged: {_first_line(error)}.") from error


def _check_header(length: bytes, name: str) -> None:
    size = int.from_bytes(length, "little")
    if len(length) < _LENGTH:
        raise ReadError(f"{name} is damaged: it has {len(length)} bytes, too few for safetensors.")
    if size > HEADER:
        raise ReadError(
            f"{name} says that its list of tensors has {size:,} bytes; at most {HEADER:,} are read."
        )


def _check_shape(shape: list[int], name: str) -> None:
    if len(shape) > DIMENSIONS:
        raise ReadError(f"{name} has {len(shape):,} dimensions; at most {DIMENSIONS} are read.")


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].rstrip(".")
