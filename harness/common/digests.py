"""SHA-256 of files that decide results: each is hashed once in a process, as long as it stays what it was."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vhsbench.harness.common.files import ReadError

_COARSE_NS = 1_000_000_000
_known: dict[tuple[object, ...], str] = {}


def file_digest(file: Path) -> str:
    """SHA-256 of a file's bytes. Raises ReadError if it cannot be read."""

    def hashed() -> str:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    return hashed_once("file", [file], hashed)


def hashed_once(kind: str, files: Sequence[Path], digest: Callable[[], str]) -> str:
    """`digest()`, a `kind` of hash of `files`; not again while their sizes, times and inodes are the same.

    For the identity of models, whose files are many gigabytes. Not for finding damage: a disk's bit may flip
    without any of these. Raises ReadError if a file cannot be read.
    """
    try:
        stamp = (kind, *(_stamp(file) for file in files))
        if stamp in _known:
            return _known[stamp]
        found = digest()
        if stamp == (kind, *(_stamp(file) for file in files)) and all(map(_settled, files)):
            _known[stamp] = found
        return found
    except OSError as error:
        raise ReadError(f"{error.filename} cannot be read: {str(error.strerror).lower()}.") from error


def _stamp(file: Path) -> tuple[object, ...]:
    found = os.stat(file)
    # the time of the inode's last change too: what keeps an old modification time does not keep it
    return (str(file), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _settled(file: Path) -> bool:
    """Whether a later change would show in the file's times, which are coarse."""
    return time.time_ns() - os.stat(file).st_ctime_ns > _COARSE_NS
