"""NVML with a stand-in for pynvml: what is known, what is missing, what taints."""

from __future__ import annotations

import multiprocessing
import os
import sys
from types import SimpleNamespace

import pytest
import torch

from harness.cost import nvml
from harness.cost.measure import taints
from harness.cost.nvml import POWER_CAP, THROTTLED, Gpu
from harness.environment import environment, gpus


class NVMLError(Exception):
    pass


def library(**answers):
    """A pynvml that answers `answers` and refuses every other question."""

    def refuse(*_):
        raise NVMLError("not supported")

    names = (
        "TotalEnergyConsumption", "ComputeRunningProcesses", "CurrentClocksThrottleReasons", "MemoryInfo",
        "EnforcedPowerLimit", "Name", "ClockInfo", "MaxClockInfo",
    )  # fmt: skip
    calls = {f"nvmlDeviceGet{name}": refuse for name in names}
    calls |= {f"nvmlDeviceGet{name}": lambda *_, value=value: value for name, value in answers.items()}
    return SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetHandleByIndex=lambda i: f"gpu{i}",
        nvmlDeviceGetHandleByPciBusId=refuse, nvmlDeviceGetCount=lambda: 1,
        nvmlSystemGetDriverVersion=lambda: "580.1", NVML_CLOCK_SM=1, NVML_CLOCK_MEM=2,
        nvmlClocksThrottleReasonSwThermalSlowdown=32, nvmlClocksThrottleReasonHwSlowdown=8,
        nvmlClocksThrottleReasonSwPowerCap=4, **calls,
    )  # fmt: skip


def process(pid, gigabytes=1.5):
    return SimpleNamespace(pid=pid, usedGpuMemory=int(gigabytes * 1e9))


@pytest.fixture
def gpu(monkeypatch):
    def make(**answers) -> Gpu:
        monkeypatch.setitem(sys.modules, "pynvml", library(**answers))
        return Gpu()

    return make


def test_counters_in_their_units(gpu):
    card = gpu(TotalEnergyConsumption=123456, ComputeRunningProcesses=[process(os.getpid(), 2.5)])
    assert card.known
    assert card.energy_j() == pytest.approx(123.456)
    assert card.process_gb() == 2.5


def test_what_the_card_does_not_answer_is_none(gpu):
    card = gpu(Name="NVIDIA X")
    assert card.known
    assert card.energy_j() is None
    assert card.process_gb() is None
    assert card.others() is None
    assert card.reasons(THROTTLED) == []
    assert card.describe() == dict.fromkeys(card.describe()) | {"name": "NVIDIA X", "driver": "580.1"}


def test_without_nvml_everything_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)  # the import fails
    card = Gpu()
    assert not card.known
    assert card.energy_j() is None
    assert card.others() is None
    assert taints(card) == []
    assert nvml.count() == 0
    assert gpus() == []
    assert environment()["gpus"] == []


def test_a_cpu_has_no_gpu(gpu):
    gpu(TotalEnergyConsumption=1)
    assert not Gpu.of(torch.device("cpu")).known


def test_another_process_taints_but_not_the_one_that_waits_for_this(gpu, monkeypatch):
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: SimpleNamespace(pid=77))
    mine = [process(os.getpid()), process(77)]
    assert taints(gpu(ComputeRunningProcesses=mine)) == []
    assert taints(gpu(ComputeRunningProcesses=[*mine, process(1234567)])) == [
        "other processes on the GPU: 1234567"
    ]
    # pids of another namespace say nothing
    assert gpu(ComputeRunningProcesses=[process(1234567)]).others() is None


def test_throttling_taints_and_a_power_cap_is_only_noted(gpu):
    card = gpu(CurrentClocksThrottleReasons=32 | 4)
    assert taints(card) == ["thermal slowdown"]
    assert card.reasons(POWER_CAP) == ["power cap"]
    assert taints(gpu(CurrentClocksThrottleReasons=8 | 32)) == ["thermal slowdown", "hardware slowdown"]
    assert taints(gpu(CurrentClocksThrottleReasons=0)) == []


def test_the_environment_tells_clocks_and_power_limit(gpu):
    gpu(Name="NVIDIA X", EnforcedPowerLimit=700000, ClockInfo=1980, MaxClockInfo=1980,
        MemoryInfo=SimpleNamespace(total=80e9, free=79e9))  # fmt: skip
    found = environment()
    assert found["gpus"][0]["power_limit_w"] == 700
    assert found["gpus"][0]["sm_clock_mhz"] == 1980
    assert found["gpus"][0]["memory_gb"] == 80
    assert {"cuda", "cudnn", "float32_matmul_precision"} <= set(found["torch_settings"])
