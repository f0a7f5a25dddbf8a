"""All loggers of a run or a training: each in a thread of its own, so that a slow or broken one costs it nothing."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any

from vhsbench.harness.common.shown import one_line
from vhsbench.harness.cost.cost_model import unit_of
from vhsbench.harness.loggers import REGISTRY, Logger

_EVERY_S = 1.0  # between two numbers of a group
LAST_S = 60.0  # that a logger has at the end to send what it has not sent
_KEPT = ("tables/*.csv", "tables/*.md", "figures/*.png", "figures/*.pdf", "report.html")
# of a budget's row, each with its ends
_RESULTS = ("best_of_n", "n_", "overall", "geneval_overall", "time_", "tflop", "cost_")
_log = logging.getLogger(__name__)


class Logs:
    """Passes numbers to the loggers of `names`; use it as a context manager.

    Each is made when there is something to log. Raises RegistryError or LoggerError, before anything is done, for one
    that is unknown or whose package is missing; what it raises later is one warning, and no more is sent to it.
    """

    def __init__(self, names: Sequence[str], folder: Path | str, config: Mapping[str, Any]) -> None:
        given = {"folder": str(folder).rstrip("/"), "config": config}
        for name in names:
            REGISTRY.get(name)
            REGISTRY.check_options(name, given)
        self._channels = [_Channel(name, given) for name in dict.fromkeys(names)]
        self._logged_s: dict[str, float] = {}

    def progress(self, phase: str, done: int, of: int) -> None:
        """Log how far a phase of a run is, in percent."""
        self.log(phase, {"percent": 100 * done / of if of else 100.0}, done, of)

    def log(self, group: str, values: Mapping[str, float], step: int, last: int) -> None:
        """Log numbers of a group at a step, at most once a second; those of the `last` step always. NaN is left out."""
        now = time.monotonic()
        if step < last and now - self._logged_s.get(group, -math.inf) < _EVERY_S:
            return
        self._logged_s[group] = now
        self._log(group, values, step)

    def report(self, summary: Mapping[str, Any], folder: Path) -> None:
        """Log a report's numbers, keep its files, and end."""
        if not self._channels:
            return
        for group, values in results(summary):
            self._log(group, values, 0)
        files = sorted(file for pattern in _KEPT for file in folder.glob(pattern))
        for channel in self._channels:
            channel.put(lambda logger: logger.keep(folder, files))
        self._close(ok=True)  # what is still to be sent may lie in a temporary folder

    def _log(self, group: str, values: Mapping[str, float], step: int) -> None:
        known = {name: float(value) for name, value in values.items() if not math.isnan(value)}
        for channel in self._channels if known else ():
            channel.put(lambda logger: logger.log(group, known, step))

    def _close(self, ok: bool) -> None:
        for channel in self._channels:
            channel.end(ok)
        until = time.monotonic() + LAST_S
        for channel in self._channels:
            channel.join(max(0.0, until - time.monotonic()))
        self._channels = []

    def __enter__(self) -> Logs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(ok=kind is None)


def results(summary: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield groups of a report's numbers: of each pipeline at each budget, and the AUC of each verifier."""
    others = {name: rows for name, rows in summary["tables"].items() if name.startswith("budgets_")}
    for name, rows in {"budgets_ms": summary["budgets"], **others}.items():
        column = name.replace("budgets_", "budget_")
        for row in rows:
            found = {key: row[key] for key in row if key.startswith(_RESULTS) and row[key] is not None}
            if row["best_of_n"] is not None:
                yield f"at {row[column]:g} {unit_of(column)}/{_pipeline(row)}", found
    for row in summary["auc"]:
        if row["auc"] is not None:
            yield f"AUC/{_pipeline(row)}", {key: row[key] for key in ("auc", "low", "high")}


def _pipeline(row: Mapping[str, Any]) -> str:
    steps = f" {row['steps']} steps" if row["steps"] > 1 else ""
    return f"{row['generator']}{steps}/{row['verifier']}"


class _Channel:
    """One logger, and the thread that calls it."""

    def __init__(self, name: str, given: Mapping[str, Any]) -> None:
        self._name, self._given = name, given
        self._calls = SimpleQueue[Callable[[Logger], None] | None]()
        self._thread: Thread | None = None

    def put(self, call: Callable[[Logger], None]) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._work, name=f"logger {self._name}", daemon=True)
            self._thread.start()
        if self._thread.is_alive():
            self._calls.put(call)

    def end(self, ok: bool) -> None:
        self._calls.put(lambda logger: logger.close(ok))
        self._calls.put(None)

    def join(self, seconds: float) -> None:
        if self._thread is None:  # nothing was logged
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            _log.warning("logger '%s' has not sent all within %.0f s: left behind.", self._name, LAST_S)

    def _work(self) -> None:
        try:
            logger = REGISTRY.create(self._name, **self._given)
            while (call := self._calls.get()) is not None:
                call(logger)
        except (Exception, SystemExit) as error:
            _log.warning(
                "logger '%s' failed, and gets no more; nothing else depends on it: %s.",
                self._name,
                one_line(error),
            )
