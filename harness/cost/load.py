"""How much of this machine's processors others take meanwhile: what spoils times on a shared host."""

from __future__ import annotations

import time

import psutil

LOADED_PERCENT = 10.0  # of all processors, by others: rounds above it do not count while enough others do
_SHORTEST_S = 0.2  # the system counts in hundredths of a second
_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")


class OthersLoad:
    """The share of all processors' time that other processes took since this was made, a hypervisor's included."""

    def __init__(self) -> None:
        self._before = _now()

    def percent(self) -> float | None:
        """None for a span too short to tell."""
        wall, busy, own = (after - before for after, before in zip(_now(), self._before, strict=True))
        if wall < _SHORTEST_S:
            return None
        return 100 * max(0.0, busy - own) / (wall * (psutil.cpu_count() or 1))


def _now() -> tuple[float, float, float]:
    """Seconds of the clock, of all processors at work, and of this process at work."""
    times = psutil.cpu_times()
    return time.perf_counter(), sum(getattr(times, name, 0.0) for name in _BUSY), time.process_time()
