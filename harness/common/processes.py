"""Processes that end with the one that needs them."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

TIED_TO = "VHSBENCH_TIED_TO"  # environment of a vhsbench command: the id of its parent, with which it ends
_PR_SET_PDEATHSIG = 1


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
