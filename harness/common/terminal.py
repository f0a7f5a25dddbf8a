"""What every command shares: the console, progress bars, quiet libraries, the --json option."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.exit_codes import CLOSED_PIPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

_results: list[TextIO | None] = []  # the real standard output, while it is kept for a command's JSON


@contextmanager
def _stdout_for_json() -> Iterator[None]:
    _results.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _results.pop()


def _alone(context: typer.Context, given: bool) -> bool:
    """Keep the standard output for `print_json`: what else is printed there, by plugins too, goes to stderr."""
    if given and not context.resilient_parsing:
        context.with_resource(_stdout_for_json())
    return given


Json = Annotated[
    bool, typer.Option("--json", callback=_alone, help="Print JSON for a program to read, and nothing else.")
]


def print_json(value: object) -> None:
    """Print the one JSON value that a command with --json prints."""
    print(json.dumps(value, indent=1), file=_results[-1] if _results else sys.stdout, flush=True)


_EVERY_S = 60.0  # between a phase's lines in a log


def path(text: str | Path) -> Path:
    """Parse an option that says where something is written: a path on this machine.

    Raises BadParameter for a URL, which would become a folder of that name.
    """
    if "://" in str(text):
        raise typer.BadParameter(f"{text} is a URL; give a path of this machine.")
    return Path(text)


class OutputError(VhsbenchError):
    """Standard output or standard error cannot be written."""


class _Written(io.FileIO):
    """A file or pipe that a stream writes to; when that fails, nothing more goes there.

    A write exits with CLOSED_PIPE if who reads it stopped, whatever library prints, and raises OutputError for a full disk.
    """

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self.fileno())
            if isinstance(error, BrokenPipeError):
                raise SystemExit(CLOSED_PIPE) from None
            raise OutputError(f"the output cannot be written: {error.strerror}.") from error


def open_output() -> None:
    """Prepare the standard streams: any prompt can be printed, and a reader that stops ends the command (`_Written`).

    Characters are escaped on a terminal that lacks them; files and pipes get UTF-8.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")
        below = getattr(stream.buffer, "raw", stream.buffer)  # itself with PYTHONUNBUFFERED
        if isinstance(below, io.FileIO) and not stream.isatty():
            written: Any = _Written(stream.fileno(), "wb", closefd=False)
            again = io.TextIOWrapper(
                written if below is stream.buffer else io.BufferedWriter(written),
                stream.encoding,
                stream.errors,
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, again)


def flush_output() -> None:
    """Write what the standard streams still hold, while a failure can have an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # as `>&-` leaves it
            stream.flush()


class Bars:
    """A command's progress on stderr: a rich progress bar per phase on a terminal, lines (`Lines`) in a log."""

    def __enter__(self) -> Bars:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Left

        out = console(stderr=True)
        self._lines = None if sys.stderr.isatty() else Lines()  # rich takes FORCE_COLOR for a terminal
        self._tasks: dict[str, Any] = {}
        self._progress = Progress(
            TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), Left(), console=out, disable=self._lines is not None,
        )  # fmt: skip
        self._progress.start()
        return self

    def update(self, what: str, done: int, of: int, key: str | None = None) -> None:
        key = key or what
        if self._lines:
            self._lines.update(what, done, of, key)
            return
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(what, total=of)
        # with its total: on a loaded machine more turns of measuring become due
        self._progress.update(self._tasks[key], completed=done, total=of, description=what)

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        if self._lines:
            self._lines.say(text)
        else:
            self._progress.console.print(text, highlight=False, markup=False)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._lines:
            self._lines.close()


@dataclass
class _Phase:
    done: int
    began_s: float
    said_s: float
    moved: bool = False  # since its first update
    unsaid: str = ""  # the latest state, unless a line has shown it
    complete: bool = False


class Lines:
    """Lines when a phase begins, when it is complete, and about once a minute in between; each is flushed.

    A line begins with the time since the first, such as 1:02:03. A phase that is announced before its work begins
    is timed from the end of the previous one. `write` takes a line, `clock` returns seconds.
    """

    def __init__(
        self, write: Callable[[str], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._clock = write or _to_stderr, clock
        self._began_s = self._moved_s = clock()
        self._phases: dict[str, _Phase] = {}

    def update(self, what: str, done: int, of: int, key: str) -> None:
        now = self._clock()
        phase = self._phases.get(key)
        is_new = phase is None
        phase = self._phases.setdefault(key, _Phase(done, now, now))
        if phase.complete:
            return
        if done != phase.done:
            if not phase.moved:
                phase.moved, phase.began_s = True, max(phase.began_s, self._moved_s)
            phase.done, self._moved_s = done, now
        phase.complete = done >= of
        phase.unsaid = f"{what}: {done} of {of}"
        if phase.complete and not is_new:
            phase.unsaid += f", in {duration(now - phase.began_s)}"
        if is_new or phase.complete or now - phase.said_s >= _EVERY_S:
            self.say(phase.unsaid)
            phase.said_s, phase.unsaid = now, ""

    def say(self, text: str) -> None:
        self._write(f"{duration(self._clock() - self._began_s)} {text}")

    def close(self) -> None:
        """Print where incomplete phases stopped."""
        for phase in self._phases.values():
            if phase.unsaid:
                self.say(phase.unsaid)


def _to_stderr(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """Write whole seconds as 1:02:03, beyond a day as 49:02:03."""
    minutes, s = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{s:02}"


def console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


def quiet(models: bool = True) -> None:
    """Keep the libraries' progress bars and advice off the terminal; `models`: of those that load models too."""
    import os
    import warnings

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    if not models:  # importing them takes seconds
        return
    from threading import RLock

    from diffusers.utils import logging as diffusers_logging
    from tqdm import tqdm
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    tqdm.set_lock(RLock())  # its own is one of several processes, which a killed process leaves behind
