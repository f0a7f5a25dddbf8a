"""NVML with a stand-in for pynvml: what is known, what is missing, what taints."""

from __future__ import annotations

import multiprocessing
import os
import sys
from types import SimpleNamespace

import pytest
import torch

from vhsbench.harness.cost import nvml
from vhsbench.harness.cost.environment import environment, gpus
from vhsbench.harness.cost.nvml import POWER_CAP, THROTTLED, Gpu, remarks, taints


class NVMLError(Exception):
    pass


def library(**answers):
    """A pynvml that answers `answers` and refuses every other question."""

    def refuse(*_):
        raise NVMLError("not supported")

    names = (
        "TotalEnergyConsumption", "ComputeRunningProcesses", "CurrentClocksThrottleReasons", "MemoryInfo",
        "EnforcedPowerLimit", "Name", "ClockInfo", "MaxClockInfo", "MigMode", "MaxMigDeviceCount",
        "MigDeviceHandleByIndex", "UUID", "UtilizationRates", "ProcessUtilization",
    )  # fmt: skip
    calls = {f"nvmlDeviceGet{name}": refuse for name in names}
    calls |= {
        f"nvmlDeviceGet{name}": value if callable(value) else lambda *_, value=value: value
        for name, value in answers.items()
    }
    return SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetHandleByIndex=lambda i: f"gpu{i}",
        nvmlDeviceGetHandleByPciBusId=lambda bus: f"gpu at {bus.decode()}" if bus != b"none" else refuse(),
        nvmlDeviceGetCount=lambda: 1, NVML_DEVICE_MIG_ENABLE=1,
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


def in_instances(*processes):
    """Answers of a card in MIG instances: those that compute on each, and none at the card itself."""

    def instance(card, index):
        if index >= len(processes):
            raise NVMLError("not found")
        return index

    return {
        "MigMode": [1, 1], "MaxMigDeviceCount": 7, "MigDeviceHandleByIndex": instance,
        "ComputeRunningProcesses": lambda handle: processes[handle] if handle in range(7) else [],
        "TotalEnergyConsumption": 123456,
    }  # fmt: skip


def test_a_mig_instance_is_not_the_whole_card(gpu):
    card = gpu(**in_instances([process(1234567, 30)], [process(os.getpid(), 2.5)]))
    assert card.known
    assert card.mig
    assert card.energy_j() is None, "the whole card's, of all instances"
    assert card.process_gb() == 2.5
    assert card.others() == [], "of another instance"
    assert taints(card) == []
    assert card.limits() == [
        "energy left empty: this is a MIG instance, and NVML counts the whole card's",
    ]
    assert card.describe()["mig"] is True


def test_others_on_the_same_mig_instance_taint(gpu):
    card = gpu(**in_instances([process(os.getpid()), process(1234567)]))
    assert taints(card) == ["other processes on the GPU: 1234567"]


def test_a_mig_instance_whose_processes_are_hidden_is_unknown(gpu):
    card = gpu(**in_instances([process(1234567, 30)]))
    assert card.process_gb() is None
    assert card.others() is None
    assert len(card.limits()) == 2


def test_mig_by_what_cuda_is_given_where_nvml_may_not_say(gpu, monkeypatch):
    gpu(TotalEnergyConsumption=123456, ComputeRunningProcesses=[process(os.getpid())])
    place = SimpleNamespace(pci_domain_id=0, pci_bus_id=0x17, pci_device_id=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: place)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert Gpu.of(torch.device("cuda")).energy_j() == pytest.approx(123.456)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-5c1a6a3f-0000-0000-0000-000000000000")
    card = Gpu.of(torch.device("cuda"))
    assert card.known
    assert card.energy_j() is None
    assert card.process_gb() is None


def test_in_a_container_that_hides_processes_nothing_is_taken_for_this_one(gpu):
    card = gpu(TotalEnergyConsumption=123456, ComputeRunningProcesses=[])
    assert card.process_gb() is None
    assert card.others() is None
    assert card.limits() == [
        "other processes on the GPU: unknown, NVML shows none of this process's namespace",
        "energy is the whole card's",
    ]
    whole = gpu(MigMode=[0, 0], ComputeRunningProcesses=[process(os.getpid())])
    assert whole.limits() == []
    assert whole.describe()["mig"] is False


def test_throttling_taints_and_a_power_cap_is_only_noted(gpu):
    card = gpu(CurrentClocksThrottleReasons=32 | 4)
    assert taints(card) == ["thermal slowdown"]
    assert card.reasons(POWER_CAP) == ["power cap"]
    assert taints(gpu(CurrentClocksThrottleReasons=8 | 32)) == ["thermal slowdown", "hardware slowdown"]
    assert taints(gpu(CurrentClocksThrottleReasons=0)) == []


def test_work_on_the_other_cards_of_the_machine_is_remarked_and_taints_nothing(gpu, monkeypatch):
    """On two H200s a pipeline took 1.5 times as long while the other card had a sweep."""
    busy = {"gpu0": 95, "gpu1": 3, "gpu2": 60}

    def card(handle):
        return {"gpu at 0000:01": "gpu0"}.get(handle, handle)

    gpu(UUID=card, UtilizationRates=lambda handle: SimpleNamespace(gpu=busy[card(handle)]))
    monkeypatch.setattr(sys.modules["pynvml"], "nvmlDeviceGetCount", lambda: 3)
    mine = Gpu("0000:01")
    assert mine.neighbours() == [2]  # not itself, whatever its number, and not one that idles
    assert taints(mine) == []
    assert remarks(mine) == ["GPU 2 of this machine was at work too"]
    assert gpu().neighbours() == []  # a driver that does not say


class NVMLError_NotFound(NVMLError):
    pass


def test_others_count_only_while_they_compute(gpu):
    running = [process(os.getpid()), process(11), process(12)]

    def samples(handle, since):
        assert since == 5_000_000
        return [SimpleNamespace(pid=11, smUtil=0), SimpleNamespace(pid=12, smUtil=40)]

    def none(handle, since):
        raise NVMLError_NotFound

    assert gpu(ComputeRunningProcesses=running, ProcessUtilization=samples).others_at_work(5.0) == [12]
    assert gpu(ComputeRunningProcesses=running, ProcessUtilization=none).others_at_work(5.0) == []
    assert gpu(ComputeRunningProcesses=running).others_at_work(5.0) == [11, 12]  # NVML does not say
    assert gpu(ComputeRunningProcesses=running[:1]).others_at_work(5.0) == []
    assert Gpu("none").others_at_work(5.0) == []


def test_pipelines_measured_in_turn_are_no_others(gpu, monkeypatch):
    running = [process(os.getpid()), process(11), process(12), process(13)]
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: SimpleNamespace(pid=13))
    monkeypatch.setattr(nvml, "_parent", {11: os.getppid(), 12: os.getpid()}.get)
    assert gpu(ComputeRunningProcesses=running).others() == [12]


def test_the_environment_tells_clocks_and_power_limit(gpu):
    gpu(Name="NVIDIA X", EnforcedPowerLimit=700000, ClockInfo=1980, MaxClockInfo=1980,
        MemoryInfo=SimpleNamespace(total=80e9, free=79e9))  # fmt: skip
    found = environment()
    assert found["gpus"][0]["power_limit_w"] == 700
    assert found["gpus"][0]["sm_clock_mhz"] == 1980
    assert found["gpus"][0]["memory_gb"] == 80
    assert {"cuda", "cudnn", "float32_matmul_precision"} <= set(found["torch_settings"])
