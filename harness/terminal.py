"""What every command shares: the console, progress bars, quiet libraries, the --json option."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]


class Bars:
    """One rich progress bar per phase, with the time left."""

    def __enter__(self) -> Bars:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.progress import TimeRemainingColumn as Left

        self._tasks: dict[str, Any] = {}
        self._progress = Progress(
            TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(),
            TimeElapsedColumn(), TextColumn("left"), Left(), console=console(stderr=True),
        )  # fmt: skip
        self._progress.start()
        return self

    def update(self, what: str, done: int, of: int, key: str | None = None) -> None:
        key = key or what
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(what, total=of)
        self._progress.update(self._tasks[key], completed=done, description=what)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def console(stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=stderr)


def quiet() -> None:
    """Keep the libraries' progress bars and advice off the terminal."""
    import os
    import warnings

    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
