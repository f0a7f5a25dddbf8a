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
_OTHERS = "other processes on the GPU"
AT_WORK_PERCENT = 10  # of the time that NVML looks back on


class Gpu:
    """One NVIDIA GPU as NVML sees it. Every question answers None where NVML or the counter is missing."""

    def __init__(self, pci_bus_id: str | None = None, index: int = 0) -> None:
        """By PCI bus id, which holds whatever CUDA_VISIBLE_DEVICES says; else by NVML's index."""
        self.mig: bool | None = (
            None  # whether the card is cut into MIG instances; None where that is not known
        )
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
        mode = self._ask(lambda n, h: n.nvmlDeviceGetMigMode(h))  # now, and after the next reset
        self.mig = None if mode is None else mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE

    @classmethod
    def of(cls, device: Any) -> Gpu:
        """Return the GPU of a torch device; for a CPU, one that answers None to everything."""
        if device.type != "cuda":
            return cls(pci_bus_id="none")
        import torch

        p: Any = torch.cuda.get_device_properties(device)  # torch's stubs lack its PCI numbers
        gpu = cls(f"{p.pci_domain_id:08x}:{p.pci_bus_id:02x}:{p.pci_device_id:02x}.0")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        gpu.mig = gpu.mig or any(name.strip().startswith("MIG-") for name in visible)
        return gpu

    @property
    def known(self) -> bool:
        return self._nvml is not None

    def energy_j(self) -> float | None:
        """Return the joules of the whole card since the driver was loaded; None under MIG, where others share it."""
        if self.mig:
            return None
        millijoules = self._ask(lambda n, h: n.nvmlDeviceGetTotalEnergyConsumption(h))
        return None if millijoules is None else millijoules / 1e3

    def process_gb(self) -> float | None:
        """Return the memory that this process holds, with the CUDA context and what the allocator keeps."""
        for process in self._processes() or []:
            if process.pid == os.getpid() and process.usedGpuMemory is not None:
                return float(process.usedGpuMemory) / 1e9
        return None

    def others(self) -> list[int] | None:
        """Return pids of other processes that compute on the card, or on this process's MIG instance of it.

        Those that wait for this one are left out: what started it, and pipelines measured in turn with it. None
        where pids mean nothing.
        """
        processes = self._processes()
        if processes is None:
            return None
        pids = {p.pid for p in processes}
        if os.getpid() not in pids:  # another pid namespace: no number here means anything
            return None
        parent = multiprocessing.parent_process()
        if parent is None:
            return sorted(pids - {os.getpid()})
        return sorted(pid for pid in pids - {os.getpid(), parent.pid} if _parent(pid) != os.getppid())

    def others_at_work(self, since_s: float) -> list[int]:
        """Return those of `others` that computed since that time of the clock; all of them where NVML does not say."""
        others = self.others() or []
        if not others or self._nvml is None:
            return others
        try:
            samples = self._nvml.nvmlDeviceGetProcessUtilization(self._handle, int(since_s * 1e6))
        except self._nvml.NVMLError as error:
            found_none = type(error).__name__ == "NVMLError_NotFound"  # no process had a sample since then
            return [] if found_none else others
        at_work = {sample.pid for sample in samples if sample.smUtil > 0}
        return [pid for pid in others if pid in at_work]

    def limits(self) -> list[str]:
        """Return what NVML cannot tell of this process alone, in words for the rows that are measured so."""
        if not self.known:
            return []
        found = (
            ["energy left empty: this is a MIG instance, and NVML counts the whole card's"]
            if self.mig
            else []
        )
        if self.others() is None:
            found.append("other processes on the GPU: unknown, NVML shows none of this process's namespace")
            found += [] if self.mig else ["energy is the whole card's"]
        return found

    def neighbours(self) -> list[int]:
        """Return NVML's indices of the machine's other cards that are at work just now; none where it cannot tell."""
        mine = self._uuid()
        if mine is None:
            return []
        cards = [(i, Gpu(index=i)) for i in range(count())]
        return [i for i, gpu in cards if gpu._uuid() != mine and gpu._busy_percent() >= AT_WORK_PERCENT]

    def reasons(self, names: dict[str, str]) -> list[str]:
        """Return which of the named reasons lower the clocks now; none where NVML cannot tell."""
        bits = self._ask(lambda n, h: n.nvmlDeviceGetCurrentClocksThrottleReasons(h)) or 0
        return [
            text
            for name, text in names.items()
            if bits & getattr(self._nvml, f"nvmlClocksThrottleReason{name}", 0)
        ]

    def describe(self) -> dict[str, Any]:
        """Name, driver, memory, whether MIG is on, clocks (MHz) and power limit (W), of the whole card."""
        memory = self._ask(lambda n, h: n.nvmlDeviceGetMemoryInfo(h))
        limit = self._ask(lambda n, h: n.nvmlDeviceGetEnforcedPowerLimit(h))
        return {
            "name": self._ask(lambda n, h: n.nvmlDeviceGetName(h)),
            "memory_gb": None if memory is None else round(memory.total / 1e9, 1),
            "free_gb": None if memory is None else round(memory.free / 1e9, 1),
            "driver": self._ask(lambda n, h: n.nvmlSystemGetDriverVersion()),
            "mig": self.mig,
            "power_limit_w": None if limit is None else limit / 1e3,
            "sm_clock_mhz": self._ask(lambda n, h: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_SM)),
            "sm_clock_max_mhz": self._ask(lambda n, h: n.nvmlDeviceGetMaxClockInfo(h, n.NVML_CLOCK_SM)),
            "memory_clock_mhz": self._ask(lambda n, h: n.nvmlDeviceGetClockInfo(h, n.NVML_CLOCK_MEM)),
        }

    def _uuid(self) -> Any:
        return self._ask(lambda n, h: n.nvmlDeviceGetUUID(h))

    def _busy_percent(self) -> float:
        rates = self._ask(lambda n, h: n.nvmlDeviceGetUtilizationRates(h))
        return 0.0 if rates is None else float(rates.gpu)

    def _processes(self) -> list[Any] | None:
        """Return what computes on the card; of a card in MIG instances, on the one that has this process."""
        if not self.mig:
            return self._ask(lambda n, h: n.nvmlDeviceGetComputeRunningProcesses(h))
        instances = self._ask(lambda n, h: n.nvmlDeviceGetMaxMigDeviceCount(h)) or 0
        for processes in map(self._on_instance, range(instances)):
            if any(p.pid == os.getpid() for p in processes):
                return processes
        return None

    def _on_instance(self, index: int) -> list[Any]:
        instance = self._ask(lambda n, h: n.nvmlDeviceGetMigDeviceHandleByIndex(h, index))  # may be a gap
        if instance is None:
            return []
        return self._ask(lambda n, _: n.nvmlDeviceGetComputeRunningProcesses(instance)) or []

    def _ask(self, question: Callable[[Any, Any], T]) -> T | None:
        if self._nvml is None:
            return None
        try:
            return question(self._nvml, self._handle)
        except self._nvml.NVMLError:
            return None


def taints(gpu: Gpu) -> list[str]:
    """Return what spoils a measurement on this GPU just now, in words."""
    others = gpu.others()
    return [*gpu.reasons(THROTTLED), *([f"{_OTHERS}: {', '.join(map(str, others))}"] if others else [])]


def others_on(gpu: Gpu, since_s: float) -> str:
    """Return which other processes computed on this GPU since a time of the clock, in words; "" for none."""
    others = gpu.others_at_work(since_s)
    return f"{_OTHERS}: {', '.join(map(str, others))}" if others else ""


def remarks(gpu: Gpu) -> list[str]:
    """Return what is only said of a round: a power cap, or work on the machine's other cards.

    A busy card works at its cap; others' work costs time where a pipeline waits for the host.
    """
    beside = [f"GPU {i} of this machine was at work too" for i in gpu.neighbours()]
    return [*gpu.reasons(POWER_CAP), *beside]


def _parent(pid: int) -> int | None:
    import psutil

    try:
        return psutil.Process(pid).ppid()
    except psutil.Error:
        return None


def count() -> int:
    """Count the GPUs that NVML sees; 0 without NVML."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except Exception:  # as in Gpu
        return 0
