"""Stopping in good order: Ctrl-C, SIGTERM and a closing terminal end a command with a word and its exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

import typer

from vhsbench.harness.common.exit_codes import INTERRUPTED


@contextmanager
def stopping(said: str) -> Iterator[None]:
    """Unwind the block where a signal asks to stop, print `said` and exit with 128 plus the signal's number."""
    asked: list[int] = []

    def stop(number: int, frame: object) -> NoReturn:
        asked.append(number)
        raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    hang_up = getattr(signal, "SIGHUP", None)  # which Windows has not
    if hang_up and signal.getsignal(hang_up) is not signal.SIG_IGN:  # as nohup has it
        numbers.append(hang_up)
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    except BaseException:  # a library in C may turn the interrupt into an error of its own
        if not asked:
            raise
        with suppress(OSError):  # the terminal may be gone
            print(said, file=sys.stderr)
        raise typer.Exit(INTERRUPTED + asked[0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
