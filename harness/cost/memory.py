"""What running out of memory looks like, on the device and on the host."""

from __future__ import annotations

_SAID = ("out of memory", "can't allocate memory", "not enough memory")  # CUDA, PyTorch's CPU allocators


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the device or the machine had no memory left, as PyTorch and Python say it."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and any(text in said for text in _SAID)
