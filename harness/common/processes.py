"""Processes that end with the one that needs them, and files that one process at a time holds."""

from __future__ import annotations

import ctypes
import fcntl
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vhsbench.harness.common.errors import VhsbenchError

if TYPE_CHECKING:
    import psutil

TIED_TO = "VHSBENCH_TIED_TO"  # environment of a vhsbench command: the id of its parent, with which it ends
_PR_SET_PDEATHSIG = 1
_POLL_S, _LOOK_S = 0.1, 0.01


class HeldError(VhsbenchError):
    """Another process holds the file; `pid` is its id, as text."""

    def __init__(self, file: Path, pid: str) -> None:
        super().__init__(f"{file} is held by process {pid}; wait for it, or stop it.")
        self.pid = pid


def hold(file: Path, wait_s: float = 0.0) -> IO[str]:
    """Lock a file for this process, whose id goes into it, until it is closed or the process ends, however it ends.

    Raises HeldError if another process still has it after `wait_s` seconds, OSError if it cannot be opened.
    """
    until_s = time.monotonic() + wait_s
    stream = open(file, "a+", encoding="utf-8")  # noqa: SIM115 - held as long as the caller wants
    while not _locked(stream, fcntl.LOCK_EX):
        looked_at = _locked(stream, fcntl.LOCK_SH)  # by is_held, which lets go at once
        fcntl.flock(stream, fcntl.LOCK_UN)
        if not looked_at and time.monotonic() >= until_s:
            stream.seek(0)
            holder = stream.read().strip() or "unknown"
            stream.close()
            raise HeldError(file, holder) from None
        time.sleep(_LOOK_S if looked_at else _POLL_S)
    stream.truncate(0)
    stream.write(str(os.getpid()))
    stream.flush()
    return stream


def is_held(file: Path) -> bool:
    """Whether a process has the file by `hold`, which is never refused because another one looks."""
    try:
        with open(file, encoding="utf-8") as stream:
            return not _locked(stream, fcntl.LOCK_SH)
    except OSError:
        return False


def _locked(stream: IO[str], kind: int) -> bool:
    """Whether the lock could be taken just now."""
    try:
        fcntl.flock(stream, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def end_with_parent(parent: int | None = None) -> None:
    """Kill this process as soon as the one that started it has ended, however that ended.

    Of a process of `multiprocessing` that is the one that called start(), also behind a fork server. Linux kills it;
    a thread sees to it elsewhere, and where Linux looks at the fork server alone. Waiting costs the thread nothing.
    `parent` is the id of the one that started it, for one that may have ended before this is called.
    """
    parent = parent or os.getppid()
    kill_with_parent()
    threading.Thread(target=_end_after, args=(parent,), daemon=True, name="end-with-parent").start()


def end_with(process: psutil.Process) -> None:
    """Kill this process within a second or so of another's end, which need not have started it."""
    threading.Thread(target=_end_after_other, args=(process,), daemon=True, name="end-with").start()


Place = tuple[str, int]  # where ids of processes mean the same, and the id of one


def here() -> Place:
    """This process, for others to find if they are of the same machine and see the same ids."""
    return _where(), os.getpid()


def find(place: Place) -> psutil.Process | None:
    """The process of that place, which must be alive just now; None if it is of another machine or container.

    The object knows its process even when the id is another's, whatever the clock is set to.
    """
    import psutil

    where, pid = place
    try:
        return psutil.Process(pid) if where == _where() else None
    except psutil.Error:
        return None


def lives(process: psutil.Process) -> bool:
    """Whether it has not ended; one that has, and whose parent has not asked for its status, has ended."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _where() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # containers see ids of their own
    except OSError:
        return socket.gethostname()


def kill_with_parent() -> None:
    """Have Linux kill this process when the thread that started it ends; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _end_after(parent: int) -> None:
    starter = multiprocessing.parent_process()
    if starter is not None:
        starter.join()  # a pipe, which closes when that process ends
    else:
        while os.getppid() == parent:
            time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def _end_after_other(process: psutil.Process) -> None:
    while lives(process):
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)
