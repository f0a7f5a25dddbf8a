"""A cell measured in a process of its own, which ends with this one."""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import traceback
from collections.abc import Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhsbench.harness.common.locks import HeldError, hold
from vhsbench.harness.common.processes import end_with_parent
from vhsbench.harness.common.terminal import quiet
from vhsbench.harness.cost.clocks import first_line
from vhsbench.harness.cost.measure import Cell, Measured, MeasureError, failed, in_words, measure
from vhsbench.harness.cost.memory import is_out_of_memory

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


def measure_in_fresh_process(cell: Cell, measuring: Path | None = None) -> Measured:
    """`measure` in a process of its own, so that memory and caches do not leak between cells.

    The process ends with this one, and holds the file `measuring` as long as it lives. A cell that runs out of
    memory or time has rows that say so. Raises what else went wrong.
    """
    context = _fresh_processes()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_in_fresh_process, args=(_report, cell, sender, measuring))
    process.start()
    sender.close()
    try:
        if not receiver.poll(cell.timing.timeout_s):
            return failed(cell, "timeout", f"not done after {cell.timing.timeout_s:g} s")
        outcome = receiver.recv()
        process.join()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGKILL:
            return failed(cell, "oom", "killed by the system, most often for want of memory")
        raise MeasureError(
            f"measuring {in_words(cell)} ended with exit code {process.exitcode} and no word why."
        ) from None
    finally:
        process.kill()
        process.join()
        receiver.close()
    if isinstance(outcome, BaseException):
        raise outcome
    assert isinstance(outcome, Measured)
    return outcome


def _fresh_processes() -> Any:
    """Processes that start with the libraries imported and nothing done: forked from a server that did no more."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vhsbench.harness.cost.preloaded"])
    return context


def _in_fresh_process(
    report: Callable[[Cell, Connection], None], cell: Cell, sender: Connection, measuring: Path | None
) -> None:
    end_with_parent()
    try:
        with closing(hold(measuring)) if measuring else nullcontext():
            report(cell, sender)
    except HeldError as other:
        sender.send(
            MeasureError(f"measuring {in_words(cell)}: process {other.pid} measures for the same run.")
        )


def _report(cell: Cell, sender: Connection) -> None:
    quiet()
    try:
        sender.send(measure(cell))
    except Exception as error:
        if is_out_of_memory(error):
            sender.send(failed(cell, "oom", first_line(error)))
            return
        error.add_note("".join(traceback.format_exception(error)))
        try:
            sender.send(pickle.loads(pickle.dumps(error)))
        except Exception:  # what cannot be pickled is told in words
            sender.send(MeasureError(f"measuring {in_words(cell)}: {type(error).__name__}: {error}"))
