"""SHA-256 of files that decide results: a process hashes each once, as long as it does not change."""

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
    """Hash a file's bytes by SHA-256, once as long as it does not change. Raises ReadError if it cannot be read."""

    def hashed() -> str:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    return hashed_once("file", [file], hashed)


def hashed_once(kind: str, files: Sequence[Path], digest: Callable[[], str]) -> str:
    """Return `digest()`, a `kind` of hash of `files`, from a cache while their sizes, times and inodes are the same.

    For the identity of models, whose files have many gigabytes. Not for finding damage: a bit may flip on disk
    without changing any of these. Raises ReadError if a file cannot be read.
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
    # also the time of the inode's last change, which a tool that restores modification times cannot restore
    return (str(file), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _settled(file: Path) -> bool:
    """Tell whether a later change would show in the file's times, which are coarse."""
    return time.time_ns() - os.stat(file).st_ctime_ns > _COARSE_NS
