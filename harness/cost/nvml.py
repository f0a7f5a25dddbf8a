"""What NVML tells of a GPU: energy, memory, clocks, throttling, other processes. None where it tells nothing."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

# Reasons for lower clocks that spoil a measurement; a power cap is what a busy card works at, so only noted.
THROTTLED = {
    "SwThermalSlowdown": "thermal slowdown",
    "HwSlowdown": "hardware slowdown",
    "HwThermalSlowdown": "hardware thermal slowdown",
    "HwPowerBrakeSlowdown": "power brake",
}
POWER_CAP = {"SwPowerCap": "power cap"}


class Gpu:
    """One NVIDIA GPU as NVML sees it. Every question answers None where NVML or the counter is missing."""

    def __init__(self, pci_bus_id: str | None = None, index: int = 0) -> None:
        """By PCI bus id, which holds whatever CUDA_VISIBLE_DEVICES says; else by NVML's index."""
        self._nvml: Any = None
        self._handle: Any = None
        try:
            import pynvml

            pynvml.nvmlInit()
            self._handle = (
                pynvml.nvmlDeviceGetHandleByPciBusId(pci_bus_id.encode())
                if pci_bus_id
                else pynvml.nvmlDeviceGetHandleByIndex(index)
            )
            self._nvml = pynvml
        except Exception:  # NVML raises its own kinds; any of them means that there is nothing to ask
            return

    @classmethod
    def of(cls, device: Any) -> Gpu:
        """The GPU of a torch device; for a CPU, one that answers None to everything."""
        if device.type != "cuda":
            return cls(pci_bus_id="none")
        import torch

        p = torch.cuda.get_device_properties(device)
        return cls(f"{p.pci_domain_id:08x}:{p.pci_bus_id:02x}:{p.pci_device_id:02x}.0")

    @property
    def known(self) -> bool:
        return self._nvml is not None

    def energy_j(self) -> float | None:
        """Joules since the driver was loaded."""
        millijoules = self._ask(lambda n, h: n.nvmlDeviceGetTotalEnergyConsumption(h))
        return None if millijoules is None else millijoules / 1e3

    def process_gb(self) -> float | None:
        """Memory that this process holds, with the CUDA context and what the allocator keeps."""
        for process in self._processes() or []:
            if process.pid == os.getpid() and process.usedGpuMemory is not None:
                return float(process.usedGpuMemory) / 1e9
        return None

    def others(self) -> list[int] | None:
        """Pids of other processes that compute here, less the one that started this one and waits for it;
        None where they cannot be told apart."""
        processes = self._processes()
        if processes is None:
            return None
        pids = {p.pid for p in processes}
        if os.getpid() not in pids:  # another pid namespace: no number here means anything
            return None
        parent = multiprocessing.parent_process()
        return sorted(pids - {os.getpid(), parent.pid if parent else None})

    def reasons(self, names: dict[str, str]) -> list[str]:
        """Which of the named reasons lower the clocks now; none where NVML cannot tell."""
        bits = self._ask(lambda n, h: n.nvmlDeviceGetCurrentClocksThrottleReasons(h)) or 0
        return [
            text
            for name, text in names.items()
            if bits & getattr(self._nvml, f"nvmlClocksThrottleReason{name}", 0)
        ]

    def describe(self) -> dict[str, Any]:
        """Name, driver, memory, clocks (MHz) and power limit (W)."""
        memory = self._ask(lambda n, h: n.nvmlDeviceGetMemoryInfo(h))
        limit = self._ask(lambda n, h: n.nvmlDeviceGetEnforcedPowerLimit(h))
        return {
            "name": self._ask(lambda n, h: n.nvmlDeviceGetName(h)),
            "memory_gb": None if memory is None else round(memory.total / 1e9, 1),
            "free_gb": None if memory is None else round(memory.free / 1e9, 1),
            "driver": self._ask(lambda n, h: n.nvmlSystemGetDriverVersion()),
            "power_limit_w": None if limit is None else limit / 1e3,
            "sm_clock_mhz": self._ask(lambda n, h: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM)),
            "sm_clock_max_mhz": self._ask(lambda n, h: n.nvmlDeviceGetMaxClockInfo(h, n.NVML_CLOCK_SM)),
            "memory_clock_mhz": self._ask(lambda n, h: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM)),
        }

    def _processes(self) -> list[Any] | None:
        return self._ask(lambda n, h: n.nvmlDeviceGetComputeRunningProcesses(h))

    def _ask(self, question: Callable[[Any, Any], T]) -> T | None:
        if self._nvml is None:
            return None
        try:
            return question(self._nvml, self._handle)
        except self._nvml.NVMLError:
            return None


def count() -> int:
    """How many GPUs NVML sees; 0 without NVML."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except Exception:  # as in Gpu
        return 0
