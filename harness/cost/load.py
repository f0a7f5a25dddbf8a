"""How much of this machine's processors others take meanwhile: what spoils times on a shared host."""

from __future__ import annotations

import os
import time

import psutil

LOADED_PERCENT = 10.0  # of the processors, by others: turns above it are said to be loaded
_SHORTEST_S = 0.2  # the system counts in hundredths of a second
_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")


class OthersLoad:
    """The share that others took since this was made of the processors that this process may run on.

    Others are all other processes, and other guests of the host as far as the system knows of them.
    """

    def __init__(self) -> None:
        self._processors = _allowed()
        self._before = self._now()

    def percent(self) -> float | None:
        """Return how much others used, in percent of the processors; None for a span too short to tell."""
        wall, busy, own = (after - before for after, before in zip(self._now(), self._before, strict=True))
        if wall < _SHORTEST_S:
            return None
        return 100 * max(0.0, busy - own) / (wall * len(self._processors))

    def _now(self) -> tuple[float, float, float]:
        """Return the seconds of the clock, of those processors at work, and of this process at work."""
        each = psutil.cpu_times(percpu=True)
        busy = sum(getattr(each[i], name, 0.0) for i in self._processors for name in _BUSY if i < len(each))
        return time.perf_counter(), busy, time.process_time()


def _allowed() -> list[int]:
    try:
        return sorted(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        return list(range(psutil.cpu_count() or 1))
