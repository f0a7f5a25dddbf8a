"""A run's progress.json: what a driver is doing, for `vhsbench status` to read while it does; phases in its log."""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vhsbench.harness.common.terminal import duration
from vhsbench.harness.store.folder import Folder
from vhsbench.harness.sweep.run_log import EVENTS

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
        ended = done >= of and (new or phases[phase]["done"] < of)
        spent_s = now_s - self._began_s.setdefault(phase, now_s)
        if new or ended:
            took = "" if new else f", in {duration(spent_s)}"
            EVENTS.info("%s: %d of %d%s", phase, done, of, took)
        phases[phase] = {"done_before": before, "done": done, "of": of, "spent_s": spent_s}
        self._progress(phase, done, of)
        if new or now_s - self._written_s > _EVERY_S:
            self._write()

    def note(self, incidents: pd.DataFrame) -> None:
        """Add rows of the incidents table."""
        rows = json.loads(incidents.to_json(orient="records"))
        self.state["incidents"] += rows
        for row in rows:
            EVENTS.warning("incident: %s", ", ".join(f"{k} {v}" for k, v in row.items()))

    def close(self, status: str) -> None:
        for phase, state in self.state["phases"].items():
            if state["done"] < state["of"]:
                EVENTS.info("%s: %s of %s", phase, state["done"], state["of"])
        self.state["status"] = status
        self._write()

    def _write(self) -> None:
        self._written_s = time.monotonic()
        self.state["updated_s"] = time.time()
        self._folder.write(NAME, json.dumps(self.state, indent=1).encode() + b"\n")
