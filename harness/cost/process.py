"""A pipeline measured in a process of its own, so that memory and caches do not leak between pipelines.

The process stays alive between turns, waiting for the next without using the processor, and ends with this one.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vhsbench.harness.common.children import Child, ChildEnded, ChildError, asked
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.locks import HeldError, hold
from vhsbench.harness.common.shown import first_line
from vhsbench.harness.cost.measure import Cell, MeasureError, Measurement, Round
from vhsbench.harness.cost.memory import is_out_of_memory

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from vhsbench.harness.cost.timing import TimingConfig


class Job(Protocol):
    """What a process measures; as text, it names itself in errors."""

    @property
    def timing(self) -> TimingConfig: ...


Serving = Callable[[Any, "Connection", bool], None]  # of a job


class Failure(VhsbenchError):
    """A pipeline that has no times: `status` is "oom" or "timeout", and the message says more."""

    def __init__(self, status: str, note: str) -> None:
        super().__init__(note)
        self.status, self.note = status, note


class MeasuringProcess:
    """One pipeline in a process of its own. Raises Failure where memory or time ran out, else what went wrong there."""

    def __init__(
        self,
        cell: Job,
        measuring: Path | None = None,
        timeout_s: float | None = None,
        passes: bool = True,
        serving: Serving | None = None,
    ) -> None:
        """Start the process, and open the pipeline in it. It holds the file `measuring` as long as it lives.

        serving: what the process does, by default `serve`; `opened` is its first answer.
        """
        self.cell = cell
        self.seconds_left = cell.timing.timeout_s if timeout_s is None else timeout_s
        self._child = Child(_in_fresh_process, serving or serve, cell, measuring, passes)
        self.opened: Any = self._answer()

    def turn(self, first: int, rounds: int) -> list[Round]:
        """Measure at least so many rounds of this pipeline; see Measurement.turn."""
        self._child.send((first, rounds))
        done: list[Round] = self._answer()
        return done

    def close(self) -> None:
        """End the process: by itself if it waits for a turn, else killed."""
        self._child.close()

    def _answer(self) -> Any:
        started = time.monotonic()
        try:
            answer = self._child.receive(max(0.0, self.seconds_left))
        except TimeoutError:
            self._child.kill()
            self.close()
            raise Failure("timeout", f"not done after {self.cell.timing.timeout_s:g} s") from None
        except ChildEnded as ended:
            self.close()
            if ended.code == -signal.SIGKILL:
                raise Failure("oom", "killed by the system, usually because memory ran out") from None
            raise MeasureError(
                f"measuring {self.cell} ended with exit code {ended.code} and without a reason; a script that measures "
                "must do so under `if __name__ == '__main__':`, since the processes that measure import it."
            ) from None
        except ChildError as error:
            self.close()
            raise MeasureError(f"measuring {self.cell}: {error}") from error
        except Exception:
            self.close()
            raise
        self.seconds_left -= time.monotonic() - started
        return answer


def _in_fresh_process(
    pipe: Connection, serving: Serving, cell: Job, measuring: Path | None, passes: bool
) -> None:
    try:
        with closing(hold(measuring)) if measuring else nullcontext():
            serving(cell, pipe, passes)
    except HeldError as other:
        raise MeasureError(f"measuring {cell}: process {other.pid} measures for the same run.") from other
    except Exception as error:
        if is_out_of_memory(error):
            raise Failure("oom", first_line(error)) from error
        raise


def serve(cell: Cell, pipe: Connection, passes: bool) -> None:
    """Open the pipeline, and do its turns as they are asked for."""
    measurement = Measurement(cell, passes)
    pipe.send(measurement.opened())
    for first, rounds in asked(pipe):
        pipe.send(measurement.turn(first, rounds))
