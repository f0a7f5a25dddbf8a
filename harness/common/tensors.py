"""Read foreign safetensors files: regular, with a bounded header, and tensors of few dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhsbench.harness.common.files import SMALL, ReadError, check_regular
from vhsbench.harness.common.shown import first_line

if TYPE_CHECKING:
    import torch

HEADER = SMALL  # bytes of the list of tensors: some 100,000 of them
DIMENSIONS = 8
LENGTH = 1 << 40  # of a dimension
_LENGTH = 8  # bytes of a file that say how long its header is


@contextmanager
def open_tensors(file: Path, device: str = "cpu") -> Iterator[Any]:
    """Check a file, and open it with safetensors' safe_open. Raises ReadError, in the block too."""
    from safetensors import SafetensorError, safe_open

    check_regular(file)
    name = str(file)
    try:
        with open(file, "rb") as stream:
            _check_header(stream.read(_LENGTH), name)
        opened = safe_open(file, "pt", device=device)
    except (OSError, SafetensorError) as error:
        raise _damaged(name, first_line(error)) from error
    with opened as tensors:
        for key in tensors.keys():  # noqa: SIM118
            _check_shape(tensors.get_slice(key).get_shape(), f"{name}: '{key}'")
        try:
            yield tensors
        except SafetensorError as error:
            raise _damaged(name, first_line(error)) from error


def load_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a file, by key. Raises ReadError."""
    with open_tensors(file) as tensors:
        return {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118


def parse_tensors(data: bytes, name: str) -> dict[str, torch.Tensor]:
    """Read all tensors in a file's bytes; `name` names it in errors. Raises ReadError."""
    from safetensors import SafetensorError, deserialize
    from safetensors.torch import load

    _check_header(data[:_LENGTH], name)
    try:
        for key, tensor in deserialize(data):
            _check_shape(tensor["shape"], f"{name}: '{key}'")
        return load(data)
    except KeyError as error:
        raise _damaged(name, f"its numbers are of type {error}, which torch does not have") from error
    except SafetensorError as error:
        raise _damaged(name, first_line(error)) from error


def _check_header(length: bytes, name: str) -> None:
    size = int.from_bytes(length, "little")
    if len(length) < _LENGTH:
        raise _damaged(name, f"it has {len(length)} bytes")
    if size > HEADER:
        raise _damaged(name, f"its list of tensors would have {size:,} bytes; at most {HEADER:,} are read")


def _check_shape(shape: list[int], name: str) -> None:
    if len(shape) > DIMENSIONS:
        raise ReadError(f"{name} has {len(shape):,} dimensions; at most {DIMENSIONS} are read.")
    if max(shape, default=0) > LENGTH:  # where another dimension is 0
        raise ReadError(f"{name} has a dimension of {max(shape):,}; at most {LENGTH:,} are read.")


def _damaged(name: str, why: str) -> ReadError:
    return ReadError(f"{name} is not a safetensors file, or is damaged: {why}.")
