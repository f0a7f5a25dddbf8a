"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.common.errors import VhsbenchError


class DiskFullError(VhsbenchError):
    """No room left on a disk; the message is one sentence for a user."""


def write_atomic(file: Path, data: bytes, shared: bool = False) -> None:
    """The whole file or none of it, on disk when this returns; `shared`: several processes may write it."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp" if shared else f".{file.name}.tmp")
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def disk_full(folder: object) -> str:
    """What a user is told where the disk of `folder` is full."""
    return f"the disk of {folder} is full; make room and run the same command to resume."


@contextmanager
def room_on_disk(folder: object, kind: type[ValueError] = DiskFullError) -> Iterator[None]:
    """Turn the system's "no space left" into a sentence that names the folder, raised as `kind`."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise kind(disk_full(folder)) from error
