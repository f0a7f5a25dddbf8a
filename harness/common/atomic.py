"""Write files atomically."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vhsbench.harness.common.errors import VhsbenchError

_FULL = (errno.ENOSPC, errno.EDQUOT)


class WriteError(VhsbenchError):
    """A file that cannot be written; the message is one sentence for a user."""


class DiskFullError(WriteError):
    """No room left on a disk; the message is one sentence for a user."""


def write_output(file: Path, data: bytes | str) -> None:
    """Write a file that a user asked for atomically, and its folder; text is written in UTF-8.

    Raises WriteError, and DiskFullError where the disk is full.
    """
    with room_on_disk(file.parent):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(file, data.encode() if isinstance(data, str) else data)
        except OSError as error:
            if error.errno in _FULL:
                raise
            reason = (error.strerror or str(error)).lower()
            raise WriteError(f"{file} cannot be written: {reason}.") from error


def write_atomic(file: Path, data: bytes, shared: bool = False) -> None:
    """Write a file atomically and sync it to disk; `shared`: several processes may write it."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp" if shared else f".{file.name}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except BaseException:  # an interrupt too
        temporary.unlink(missing_ok=True)
        raise
    sync(file.parent)


def sync(path: Path) -> None:
    """Sync a closed file, or the names in a folder, to disk; Windows has no such call."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(file: Path) -> str:
    """Hash a file's bytes by SHA-256."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def disk_full(folder: object) -> str:
    """Tell a user that the disk of `folder` is full."""
    return f"the disk of {folder} is full; make room and run the same command to resume."


@contextmanager
def room_on_disk(folder: object, kind: type[ValueError] = DiskFullError) -> Iterator[None]:
    """Turn the system's "no space left" into a sentence that names the folder, raised as `kind`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise kind(disk_full(folder)) from error
