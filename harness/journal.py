"""A run's progress.json: what a driver is doing, for `vhsbench status` to read while it does."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.storage import Folder

if TYPE_CHECKING:
    import pandas as pd

NAME = "progress.json"
_EVERY_S = 1.0


class Journal:
    """Passes progress on to the terminal, and once a second to progress.json."""

    def __init__(self, folder: Folder, progress: Callable[[str, int, int], None]) -> None:
        self._folder, self._progress = folder, progress
        self._written_s = 0.0
        self.state: dict[str, Any] = {
            "status": "running",
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started_s": time.time(),
            "phases": {},
            "incidents": [],
        }

    def update(self, phase: str, done: int, of: int) -> None:
        """`done` of `of` shards or cells of a phase are there."""
        phases = self.state["phases"]
        began = phases.get(phase, {"done_before": done, "began_s": time.time()})
        phases[phase] = {**began, "done": done, "of": of, "last_s": time.time()}
        self._progress(phase, done, of)
        if time.time() - self._written_s > _EVERY_S:
            self._write()

    def note(self, incidents: pd.DataFrame) -> None:
        """Add rows of the incidents table."""
        self.state["incidents"] += json.loads(incidents.to_json(orient="records"))

    def close(self, status: str) -> None:
        self.state["status"] = status
        self._write()

    def _write(self) -> None:
        self._written_s = self.state["updated_s"] = time.time()
        self._folder.write(NAME, json.dumps(self.state, indent=1).encode() + b"\n")
