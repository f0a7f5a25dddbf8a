"""The least time of a stage on a device that is not here: an estimate, always labelled so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.registry import nearest

LABEL = "estimate, not measured"


class DeviceError(VhsbenchError):
    """A device that no data sheet is known of; the message is one sentence for a user."""


@dataclass(frozen=True)
class Device:
    """A GPU's data sheet. `matches` is a pattern of the names by which drivers call it."""

    device: str
    name: str
    matches: str
    bf16_tflops: float  # peak, dense
    bandwidth_gb_s: float
    memory_gb: float
    source: str

    def bound_ms(self, tflop: float, moved_gb: float) -> float:
        """Return the lower bound of a stage (Williams et al., 2009).

        All arithmetic at peak, or all bytes at full bandwidth, whichever takes longer; each byte is moved once.
        """
        return 1e3 * max(tflop / self.bf16_tflops, moved_gb / self.bandwidth_gb_s)


def devices() -> dict[str, Device]:
    from vhsbench.results.readers import devices as table

    rows = (Device(*row) for row in table().itertuples(index=False))
    return {d.device: d for d in rows}


def device(name: str, also: Sequence[str] = ()) -> Device:
    """Find a device by its short name. Raises DeviceError for an unknown one; `also` are other names to suggest."""
    known = devices()
    if name not in known:
        raise DeviceError(f"unknown device '{name}'; {nearest(name, [*also, *known])}")
    return known[name]


def measured_on(driver_name: str) -> Device | None:
    """Return the data sheet of the GPU that a driver calls `driver_name`, if there is one."""
    return next((d for d in devices().values() if re.search(d.matches, driver_name)), None)
