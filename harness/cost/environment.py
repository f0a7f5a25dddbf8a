"""Describe the machine of a measurement; what is missing or unknown is None, never an error."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from vhsbench.harness.cost import nvml

PACKAGES = (
    "vhsbench", "torch", "transformers", "diffusers", "open_clip_torch", "numpy", "pandas", "pyarrow",
    "nvidia-ml-py",
)  # fmt: skip


def environment(threads: int | None = None) -> dict[str, Any]:
    """Return Python, packages, CPU, memory, GPUs and git commit; None for what is unknown."""
    import psutil

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        "ram_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "packages": {name: package_version(name) for name in PACKAGES},
        "gpus": gpus(),
        "torch_settings": torch_settings(),
        "git_commit": git_commit(),
    }


def made_by(device: str) -> dict[str, Any]:
    """Return what a shard says of the process that made it: machine, device and packages."""
    return {
        "host": socket.gethostname(),
        "device": device_name(device),
        "packages": {name: package_version(name) for name in PACKAGES},
    }


def device_name(device: str) -> str:
    """Return the GPU of "cuda" or "cuda:1", else the CPU; the CPU too where there is no such GPU."""
    import torch

    on_gpu = device.startswith("cuda") and torch.cuda.is_available()
    return torch.cuda.get_device_name(torch.device(device)) if on_gpu else cpu_model()


def peak_rss_gb() -> float:
    """Return the most that this process has held in memory since it began.

    On Linux by VmHWM: getrusage's peak starts with that of the process that started this one.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1e9
    except (OSError, StopIteration):
        return _peak_rss_bytes() / 1e9


def _peak_rss_bytes() -> int:
    """Return the peak where there is no /proc."""
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)  # type: ignore[attr-defined]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def gpus() -> list[dict[str, Any]]:
    """Name, memory, driver, clocks and power limit of each NVIDIA GPU; empty without one or without NVML."""
    return [nvml.Gpu(index=i).describe() for i in range(nvml.count())]


def torch_settings() -> dict[str, Any]:
    """Return the CUDA and cuDNN that torch was built for, and the switches that change speed or precision."""
    import torch
    from torch.backends import cuda, cudnn

    return {
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version() if cudnn.is_available() else None,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_allow_tf32": cudnn.allow_tf32,
        "cudnn_benchmark": cudnn.benchmark,
        "bf16_reduced_precision_reduction": cuda.matmul.allow_bf16_reduced_precision_reduction,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def git_commit(folder: Path | None = None) -> str | None:
    """Return the commit of the checkout that holds `folder`, by default this code; None if none does."""
    try:
        return subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=folder or Path(__file__).parent, capture_output=True, encoding="utf-8", check=True, timeout=5,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
