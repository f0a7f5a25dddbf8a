"""Keep freed memory in this process while batches of one size follow each other."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# of glibc's malloc.h: parameters of mallopt, and their defaults
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
_DEFAULTS = {_TRIM_THRESHOLD: 128 * 1024, _MMAP_MAX: 65536}
_KEEPING = {_TRIM_THRESHOLD: 2**30, _MMAP_MAX: 0}


@contextmanager
def kept_heap() -> Iterator[None]:
    """Let malloc keep up to a gigabyte that is freed, where it is glibc's; elsewhere change nothing.

    By default each large tensor is mapped anew, and the kernel clears its pages: a third of the CPU time of decoding.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "gnu_get_libc_version"):
        yield
        return
    _set(libc, _KEEPING)
    try:
        yield
    finally:
        _set(libc, _DEFAULTS)
        libc.malloc_trim(0)


def _set(libc: ctypes.CDLL, values: dict[int, int]) -> None:
    for parameter, value in values.items():
        libc.mallopt(parameter, value)
