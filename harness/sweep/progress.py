"""A run's progress.json: what a driver is doing, for `vhsbench status` to read while it does."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vhsbench.harness.store.folder import Folder

if TYPE_CHECKING:
    import pandas as pd

NAME = "progress.json"
_EVERY_S = 1.0


class Journal:
    """Passes progress on to the terminal, and to progress.json once a second and when a phase begins.

    Intervals are of the monotonic clock, since the other may be set back; that one is for display.
    """

    def __init__(self, folder: Folder, progress: Callable[[str, int, int], None]) -> None:
        self._folder, self._progress = folder, progress
        self._written_s = -math.inf
        self._began_s: dict[str, float] = {}  # of each phase
        self.state: dict[str, Any] = {
            "status": "running",
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started_s": time.time(),
            "phases": {},
            "incidents": [],
        }

    def update(self, phase: str, done: int, of: int) -> None:
        """Say that `done` of `of` shards or cells of a phase are there."""
        now_s = time.monotonic()
        phases = self.state["phases"]
        new = phase not in phases
        before = done if new else phases[phase]["done_before"]
        spent_s = now_s - self._began_s.setdefault(phase, now_s)
        phases[phase] = {"done_before": before, "done": done, "of": of, "spent_s": spent_s}
        self._progress(phase, done, of)
        if new or now_s - self._written_s > _EVERY_S:
            self._write()

    def note(self, incidents: pd.DataFrame) -> None:
        """Add rows of the incidents table."""
        self.state["incidents"] += json.loads(incidents.to_json(orient="records"))

    def close(self, status: str) -> None:
        self.state["status"] = status
        self._write()

    def _write(self) -> None:
        self._written_s = time.monotonic()
        self.state["updated_s"] = time.time()
        self._folder.write(NAME, json.dumps(self.state, indent=1).encode() + b"\n")
