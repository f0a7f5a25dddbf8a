"""What a logger is: three calls, of which a class that derives from LoggerDefaults needs the first alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from vhsbench.harness.common.errors import VhsbenchError


class LoggerError(VhsbenchError):
    """A logger that cannot be used; the message is one sentence for a user."""


class Logger(Protocol):
    """Made by `create(folder, config)`: where the run or training lies (a path or URL), and its settings as plain JSON.

    All calls come from one thread, in order. What one raises is a warning, and ends the logger, not the run.
    """

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Log numbers: how far a phase is (step: what is done of it), a training's loss, or a result (step 0)."""

    def keep(self, folder: Path, files: Sequence[Path]) -> None:
        """Keep a report's tables, figures and page; they lie in `folder`, and only until this returns."""

    def close(self, ok: bool) -> None:
        """End, after all else; not `ok`: an error or a signal stopped the work."""


class LoggerDefaults:
    """What a logger may leave out."""

    def keep(self, folder: Path, files: Sequence[Path]) -> None:
        """Keep nothing."""

    def close(self, ok: bool) -> None:
        """Leave nothing open."""
