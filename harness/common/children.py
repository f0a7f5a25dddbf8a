"""Processes of our own that start with the libraries imported, answer what they are sent, and end with this one."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.processes import end_with_parent
from vhsbench.harness.common.terminal import quiet

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Serving = Callable[..., None]  # of the pipe and what Child was given

_PRELOADED = "vhsbench.harness.cost.preloaded"
_ENDING_S = 5.0  # that a process has to end by itself


class ChildError(VhsbenchError):
    """What went wrong in another process, where its own exception cannot be sent."""


class ChildEnded(ChildError):
    """A process ended without an answer."""

    def __init__(self, code: int | None) -> None:
        super().__init__(f"a process ended with exit code {code} and without an answer")
        self.code = code


class Child:
    """A process that runs `serving(pipe, *arguments)`: what it sends is received here, and what it raises is raised here."""

    def __init__(self, serving: Serving, *arguments: Any) -> None:
        context = _fresh_processes()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run, args=(serving, theirs, arguments))
        with _uninterrupted():
            self._process.start()
        theirs.close()

    def send(self, what: object) -> None:
        """Send to the process; one that has ended shows when its answer is received."""
        with suppress(OSError):
            self._pipe.send(what)

    def receive(self, timeout_s: float | None = None) -> Any:
        """Wait for the next answer. Raises TimeoutError, ChildEnded, or what the process raised."""
        if not self._pipe.poll(timeout_s):
            raise TimeoutError
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise ChildEnded(self._process.exitcode) from None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.join()

    def close(self) -> None:
        """End the process: by itself if it waits for something, else killed."""
        self._pipe.close()
        self._process.join(_ENDING_S)
        self.kill()


def asked(pipe: Connection) -> Iterator[Any]:
    """Yield what a process is sent, until nobody asks any more."""
    while True:
        try:
            what = pipe.recv()
        except (EOFError, ConnectionError):
            return
        yield what


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold back signals that Python handles until the block has ended: a process cut off in its start prints a traceback."""
    if threading.current_thread() is not threading.main_thread():  # where no signal is handled
        yield
        return
    came: list[int] = []
    handlers = {n: h for n in signal.valid_signals() if callable(h := signal.getsignal(n))}
    for number in handlers:
        signal.signal(number, lambda n, _: came.append(n))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _fresh_processes() -> Any:
    """Return a context whose processes start with the libraries imported and no more: forked from a bare server."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    return context


def _run(serving: Serving, pipe: Connection, arguments: tuple[Any, ...]) -> None:
    end_with_parent()
    quiet()
    try:
        serving(pipe, *arguments)
    except Exception as error:
        with suppress(OSError):  # nobody listens any more
            pipe.send(_sendable(error))


def _sendable(error: Exception) -> Exception:
    error.add_note("".join(traceback.format_exception(error)))
    try:
        same: Exception = pickle.loads(pickle.dumps(error))
    except Exception:  # one that cannot be pickled is described instead
        return ChildError(f"{type(error).__name__}: {error}")
    return same
