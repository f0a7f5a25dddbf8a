"""Peak memory and energy of a call."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from vhsbench.harness.cost.environment import peak_rss_gb
from vhsbench.harness.cost.nvml import Gpu
from vhsbench.harness.cost.stages import Call

if TYPE_CHECKING:
    import torch

_CONTEXT_GB = 0.6  # of CUDA itself, beside what its allocator reserves
_IDLE_S, _ENERGY_S = 1.0, 1.0  # NVML's counter moves every 20 to 100 ms


def peak_memory(call: Call, device: torch.device, gpu: Gpu) -> dict[str, float | None]:
    """Return a call's peaks in GB.

    On CUDA what tensors took, what the allocator reserved, and what NVML says that the process holds; on CPU the
    resident set, of the process so far.
    """
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return {
            "peak_vram_gb": torch.cuda.max_memory_allocated(device) / 1e9,
            "peak_reserved_gb": torch.cuda.max_memory_reserved(device) / 1e9,
            "nvml_gb": gpu.process_gb(),
        }
    call()
    return {"peak_rss_gb": peak_rss_gb()}


def energy_per_call(call: Call, gpu: Gpu, idle_w: float | None) -> float | None:
    """Return the joules of one call, less what the idle GPU takes meanwhile.

    None without NVML's counter, which is of the whole card, and where others compute on it.
    """
    before = gpu.energy_j()
    if before is None or idle_w is None:
        return None
    started, calls = time.perf_counter(), 0
    while time.perf_counter() - started < _ENERGY_S or calls < 2:
        call()
        _synchronize()
        calls += 1
    after, seconds = gpu.energy_j(), time.perf_counter() - started
    return None if after is None or gpu.others() else (after - before - idle_w * seconds) / calls


def idle_power(gpu: Gpu) -> float | None:
    """Return the watts of the GPU with the models loaded and nothing running; None without NVML's counter."""
    before = gpu.energy_j()
    if before is None:
        return None
    _synchronize()
    started, before = time.perf_counter(), gpu.energy_j() or before
    time.sleep(_IDLE_S)
    after = gpu.energy_j()
    return None if after is None else (after - before) / (time.perf_counter() - started)


def footprint_gb(device: torch.device) -> float:
    """Return what this process takes of the memory that its models are in: the GPU's, or the machine's."""
    import psutil
    import torch

    if device.type == "cuda":
        return (torch.cuda.max_memory_reserved(device) / 1e9) + _CONTEXT_GB
    return float(psutil.Process().memory_info().rss) / 1e9


def room_gb(device: torch.device) -> float:
    """Return what is free there for others."""
    import psutil
    import torch

    if device.type == "cuda":
        torch.cuda.empty_cache()
        return float(torch.cuda.mem_get_info(device)[0]) / 1e9
    return float(psutil.virtual_memory().available) / 1e9


def _synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
