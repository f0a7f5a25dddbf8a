"""Read foreign files safely: only regular ones, and up to a limit; extend names that contain dots."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vhsbench.harness.common.errors import VhsbenchError

SMALL = 16 << 20  # bytes; configurations, manifests, lists of prompts
_BLOCK = 1 << 24
# O_NONBLOCK: opening a pipe in the file's place must not block; Windows has only O_BINARY of these
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))
LARGE = 1 << 30  # bytes; results and captions, a line or entry for each of up to a million images

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class ReadError(VhsbenchError):
    """A file that cannot be read; the message is one sentence for a user."""


@contextmanager
def read_errors_as(kind: type[VhsbenchError]) -> Iterator[None]:
    """Raise a ReadError of the block as `kind`, with the same sentence."""
    try:
        yield
    except ReadError as error:
        raise kind(str(error)) from error


def read_bytes(file: Path, limit: int = SMALL) -> bytes:
    """Read a whole file. Raises ReadError if it is missing, not a regular file, or larger than `limit` bytes."""
    return b"".join(read_blocks(file, limit))


def read_blocks(file: Path, limit: int) -> Iterator[bytes]:
    """Yield a file's bytes, block by block. Raises ReadError as `read_bytes` does."""
    try:
        _refuse_others(file, os.stat(file))  # before it is opened, because opening some devices has effects
        descriptor = os.open(file, _FLAGS)
        with open(descriptor, "rb") as stream:
            _refuse_others(file, os.fstat(descriptor))  # it may have been replaced in between
            read = 0
            while block := stream.read(_BLOCK):  # the size may be wrong: /proc, or a file that grows
                read += len(block)
                if read > limit:
                    size = max(os.fstat(descriptor).st_size, read)
                    raise ReadError(f"{file} has {size:,} bytes; at most {limit:,} are read.")
                yield block
    except ReadError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ReadError(_sentence(file, error)) from error


def check_regular(file: Path) -> None:
    """Check a file that a library opens by name. Raises ReadError if it is missing or not a regular file."""
    try:
        found = os.stat(file)
    except (OSError, ValueError) as error:
        raise ReadError(_sentence(file, error)) from error
    _refuse_others(file, found)


def ending(stem: Path, end: str) -> Path:
    """Append `end` to the whole name of `stem`: with_suffix would cut results.seed0 at its dot."""
    return stem.parent / f"{stem.name}{end}"


def _sentence(file: Path, error: Exception) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return f"{file} cannot be read: {reason[0].lower()}{reason[1:]}."


def _refuse_others(file: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise ReadError(f"{file} is {kind}, not a regular file.")
