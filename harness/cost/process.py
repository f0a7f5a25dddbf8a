"""A pipeline measured in a process of its own, so that memory and caches do not leak between pipelines.

The process stays alive between turns, waiting for the next without using the processor, and ends with this one.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.locks import HeldError, hold
from vhsbench.harness.common.processes import end_with_parent
from vhsbench.harness.common.shown import first_line
from vhsbench.harness.common.terminal import quiet
from vhsbench.harness.cost.measure import Cell, MeasureError, Measurement, Opened, Round
from vhsbench.harness.cost.memory import is_out_of_memory

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


_ENDING_S = 5.0  # that a process has to end by itself


Serving = Callable[["Cell", "Connection", bool], None]


class Failure(VhsbenchError):
    """A pipeline that has no times: `status` is "oom" or "timeout", and the message says more."""

    def __init__(self, status: str, note: str) -> None:
        super().__init__(note)
        self.status, self.note = status, note


class MeasuringProcess:
    """One pipeline in a process of its own. Raises Failure where memory or time ran out, else what went wrong there."""

    def __init__(
        self, cell: Cell, measuring: Path | None = None, timeout_s: float | None = None, passes: bool = True
    ) -> None:
        """Start the process, and open the pipeline in it. It holds the file `measuring` as long as it lives."""
        self.cell = cell
        self.seconds_left = cell.timing.timeout_s if timeout_s is None else timeout_s
        context = _fresh_processes()
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_in_fresh_process, args=(serve, cell, theirs, measuring, passes)
        )
        self._process.start()
        theirs.close()
        opened = self._answer()
        assert isinstance(opened, Opened)
        self.opened = opened

    def turn(self, first: int, rounds: int) -> list[Round]:
        """Measure at least so many rounds of this pipeline; see Measurement.turn."""
        self._pipe.send((first, rounds))
        done: list[Round] = self._answer()
        return done

    def close(self) -> None:
        """End the process: by itself if it waits for a turn, else killed."""
        self._pipe.close()
        self._process.join(_ENDING_S)
        self._process.kill()
        self._process.join()

    def _answer(self) -> Any:
        started = time.monotonic()
        try:
            if not self._pipe.poll(max(0.0, self.seconds_left)):
                self._process.kill()
                raise Failure("timeout", f"not done after {self.cell.timing.timeout_s:g} s")
            answer = self._pipe.recv()
        except Failure:
            self.close()
            raise
        except EOFError:
            self._process.join()
            code = self._process.exitcode
            self.close()
            if code == -signal.SIGKILL:
                raise Failure("oom", "killed by the system, usually because memory ran out") from None
            raise MeasureError(
                f"measuring {self.cell} ended with exit code {code} and without a reason; a script that measures must "
                "do so under `if __name__ == '__main__':`, since the processes that measure import it."
            ) from None
        self.seconds_left -= time.monotonic() - started
        if isinstance(answer, BaseException):
            self.close()
            raise answer
        return answer


def _fresh_processes() -> Any:
    """Return a context whose processes start with the libraries imported and no more: forked from a bare server."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vhsbench.harness.cost.preloaded"])
    return context


def _in_fresh_process(
    serving: Serving, cell: Cell, pipe: Connection, measuring: Path | None, passes: bool
) -> None:
    end_with_parent()
    quiet()
    try:
        with closing(hold(measuring)) if measuring else nullcontext():
            serving(cell, pipe, passes)
    except HeldError as other:
        _tell(pipe, MeasureError(f"measuring {cell}: process {other.pid} measures for the same run."))
    except Exception as error:
        _tell(pipe, _sendable(cell, error))


def _tell(pipe: Connection, error: Exception) -> None:
    with suppress(OSError):  # nobody listens any more
        pipe.send(error)


def serve(cell: Cell, pipe: Connection, passes: bool) -> None:
    """Open the pipeline, and do its turns as they are asked for."""
    measurement = Measurement(cell, passes)
    pipe.send(measurement.opened())
    while True:
        try:
            first, rounds = pipe.recv()
        except EOFError:
            return
        pipe.send(measurement.turn(first, rounds))


def _sendable(cell: Cell, error: Exception) -> Exception:
    if is_out_of_memory(error):
        return Failure("oom", first_line(error))
    error.add_note("".join(traceback.format_exception(error)))
    try:
        same: Exception = pickle.loads(pickle.dumps(error))
    except Exception:  # one that cannot be pickled is described instead
        return MeasureError(f"measuring {cell}: {type(error).__name__}: {error}")
    return same
