"""End processes together with the process that needs them."""

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

TIED_TO = "VHSBENCH_TIED_TO"  # environment variable: the id of the parent with which a command ends
_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int | None = None) -> None:
    """Kill this process as soon as the one that started it has ended, however that ended.

    For a process of `multiprocessing` that is the one that called start(), also behind a fork server. On Linux the
    kernel kills it; elsewhere, and where the kernel only watches the fork server, a thread does, at no cost while it
    waits. Give the id of the `parent` if that may have ended before this is called.
    """
    parent = parent or os.getppid()
    kill_with_parent()
    threading.Thread(target=_end_after, args=(parent,), daemon=True, name="end-with-parent").start()


def end_with(process: psutil.Process) -> None:
    """Kill this process within about a second after another one ends, which need not have started it."""
    threading.Thread(target=_end_after_other, args=(process,), daemon=True, name="end-with").start()


Place = tuple[str, int]  # an id, and the machine or container in which it is valid


def here() -> Place:
    """Return this process's place, by which others on the same machine with the same ids can find it."""
    return _where(), os.getpid()


def find(place: Place) -> psutil.Process | None:
    """Find the process at a place, which must be alive now; None if it is on another machine or in another container.

    The result stays correct when another process gets the id, whatever the clock is set to.
    """
    import psutil

    where, pid = place
    try:
        return psutil.Process(pid) if where == _where() else None
    except psutil.Error:
        return None


def lives(process: psutil.Process) -> bool:
    """Tell whether a process has not ended; a zombie has ended."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _where() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # containers have their own ids
    except OSError:
        return socket.gethostname()


def kill_with_parent() -> None:
    """Let Linux kill this process when the thread that started it ends; elsewhere do nothing."""
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
