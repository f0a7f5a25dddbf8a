"""Lock files that one process at a time holds; a lock ends with its process, however that ends."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import lock_descriptor, unlock_descriptor

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import ending

_POLL_S, _LOOK_S = 0.1, 0.01


class HeldError(VhsbenchError):
    """Another process holds the file; `pid` is its id, as text."""

    def __init__(self, file: Path, pid: str) -> None:
        super().__init__(f"{file} is held by process {pid}; wait for it, or stop it.")
        self.pid = pid


def hold(file: Path, wait_s: float = 0.0) -> IO[str]:
    """Lock a file for this process, whose id goes into it, until it is closed or the process ends.

    Raises HeldError if another process still has it after `wait_s` seconds, OSError if it cannot be opened.
    """
    until_s = time.monotonic() + wait_s
    while not os.fstat((stream := _hold(file, until_s)).fileno()).st_nlink:
        stream.close()  # who had it removed it before it was ours
    return stream


def _hold(file: Path, until_s: float) -> IO[str]:
    stream = open(file, "a+", encoding="utf-8")  # noqa: SIM115 - held as long as the caller wants
    try:
        while not _try(file, stream):
            if time.monotonic() >= until_s:
                raise HeldError(file, _holder(stream))
            time.sleep(_POLL_S)
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
    except BaseException:
        stream.close()
        raise
    return stream


def is_held(file: Path) -> bool:
    """Tell whether a process holds the file; looking never causes another process's `hold` to be refused."""
    try:
        with open(file, encoding="utf-8") as stream, _gate(file, "r"):
            if not lock_descriptor(stream.fileno(), blocking=False):
                return True
            unlock_descriptor(stream.fileno())
            return False
    except OSError:
        return False


def gate_of(file: Path) -> Path:
    """Return the file beside a lock that those hold for a moment who try it."""
    return ending(file, ".gate")


def _try(file: Path, stream: IO[str]) -> bool:
    with _gate(file, "a"):
        return lock_descriptor(stream.fileno(), blocking=False)


@contextmanager
def _gate(file: Path, mode: str) -> Iterator[None]:
    """Let one process at a time try the lock, so that a process that only looks is never taken for a holder."""
    with open(gate_of(file), mode, encoding="utf-8") as gate:
        lock_descriptor(gate.fileno(), poll_interval=_LOOK_S)
        try:
            yield
        finally:
            unlock_descriptor(gate.fileno())  # a process forked meanwhile has the file open too


def _holder(stream: IO[str]) -> str:
    try:
        stream.seek(0)
        return stream.read().strip() or "unknown"
    except OSError:  # on Windows no other process can read what is locked
        return "unknown"
