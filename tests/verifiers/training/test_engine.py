"""The loop itself: one process or two, killed or not, the loss curve is the same."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from safetensors.torch import load_file

from vhsbench.generators.training import Progress
from vhsbench.harness.common.locks import hold
from vhsbench.verifiers.training import engine
from vhsbench.verifiers.training.engine import TrainingError
from vhsbench.verifiers.training.log import read
from vhsbench.verifiers.training.state import InUseError
from vhsbench.verifiers.training.train import train_verifier

ADAMW = {
    "align": {"batch": 16, "steps": 6, "train": "all", "template": "<image> describe the image"},
    "finetune": {
        "batch": 16, "steps": 12, "validate_every": 4,
        "optimizer": {"learning_rate": 1e-3}, "loss": {"name": "focal"},
    },
}  # fmt: skip


def curve(out: Path) -> list[tuple[str, str, str, float]]:
    return [(r["stage"], r["step"], r["split"], float(r["loss"])) for r in read(out)]


def train_here(recipe, data, out: Path, kill_at: str, rank: int, processes: int, port: int) -> None:
    """One process of a training; `kill_at` is the "stage:step" after which it kills itself as `kill -9` does."""
    world = {"WORLD_SIZE": processes, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
    if processes > 1:
        os.environ |= {"MASTER_ADDR": "127.0.0.1"} | {k: str(v) for k, v in world.items()}
    AcceleratorState._reset_state(reset_partial_state=True)  # the parent's

    def report(progress: Progress) -> None:
        if f"{progress.name}:{progress.step}" == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    train_verifier(recipe, "nano", data, out, report)


def start(recipe, data, out: Path, kill_at: str = "", processes: int = 1) -> list[int]:
    """Train in other processes, forked to save them the imports; returns their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    ranks = [
        fork.Process(target=train_here, args=(recipe, data, out, kill_at, rank, processes, port))
        for rank in range(processes)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    return [process.exitcode for process in ranks]


def test_a_folder_in_use_is_refused(small, data, tmp_path):
    with hold(tmp_path / ".lock"), pytest.raises(InUseError, match="another training is at work"):
        train_verifier(small(**ADAMW), "nano", data, tmp_path)


@pytest.fixture(scope="module")
def whole(small, data, tmp_path_factory) -> Path:
    """A training of one process that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole") / "out"
    train_verifier(small(**ADAMW), "nano", data, out)
    return out


def test_killed_and_resumed_the_curve_and_the_weights_are_the_same(small, data, whole, tmp_path):
    out = tmp_path / "out"
    # step 8: two steps after the last state, and after a best validation that is not the last
    assert start(small(**ADAMW), data, out, "finetune:8") == [-signal.SIGKILL]
    assert (out / "aligned").exists()
    assert not (out / "checkpoint").exists()
    first = curve(out)
    assert first == curve(whole)[: len(first)]
    train_verifier(small(**ADAMW), "nano", data, out)
    assert curve(out) == curve(whole)
    ours, theirs = (load_file(f / "checkpoint" / "model.safetensors") for f in (out, whole))
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_two_processes_killed_and_resumed_give_the_loss_of_one(small, data, whole, tmp_path):
    out = tmp_path / "out"
    recipe = small(**ADAMW, engine=small().engine.model_copy(update={"micro_batch": 3}).model_dump())
    assert start(recipe, data, out, "align:6", processes=2) == [-signal.SIGKILL] * 2
    assert not (out / "aligned").exists()
    assert start(recipe, data, out, processes=2) == [0, 0]
    ours, theirs = curve(out), curve(whole)
    assert [row[:3] for row in ours] == [row[:3] for row in theirs]
    assert [row[3] for row in ours] == pytest.approx([row[3] for row in theirs], rel=1e-4)


def test_sharded_over_two_processes_killed_and_resumed_the_loss_is_that_of_one(
    small, data, whole, tmp_path, monkeypatch
):
    """accelerate shards on GPUs alone; told that these two CPU processes are such, it does all the same here."""
    accelerator_of = engine._accelerator

    def sharded(recipe):
        accelerator = accelerator_of(recipe)
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        accelerator.state.distributed_type = DistributedType.FSDP
        accelerator.state.fsdp_plugin = engine._fsdp()
        assert accelerator.is_fsdp2
        return accelerator

    monkeypatch.setattr(engine, "_accelerator", sharded)
    out = tmp_path / "out"
    # step 8: the best weights of step 4 are whole, and the state after step 6 is in two parts
    assert start(small(**ADAMW), data, out, "finetune:8", processes=2) == [-signal.SIGKILL] * 2
    assert list(out.glob("state/finetune-000000006/**/__1_0.distcp"))
    assert start(small(**ADAMW), data, out, processes=2) == [0, 0]
    ours, theirs = curve(out), curve(whole)
    assert [row[:3] for row in ours] == [row[:3] for row in theirs]
    assert [row[3] for row in ours] == pytest.approx([row[3] for row in theirs], rel=1e-4)
    ours, theirs = (load_file(f / "checkpoint" / "model.safetensors") for f in (out, whole))
    assert all(torch.allclose(ours[k], theirs[k], atol=1e-3) for k in theirs)


def test_sharding_in_one_process_is_refused(small, data, tmp_path):
    recipe = small(**ADAMW)
    recipe = recipe.model_copy(update={"engine": recipe.engine.model_copy(update={"sharding": "fsdp"})})
    with pytest.raises(TrainingError, match="spreads over processes, and this is one"):
        train_verifier(recipe, "nano", data, tmp_path)
