"""Train a verifier: collect missing data, then run both stages, here or in several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from vhsbench.generators.checks import as_device
from vhsbench.generators.training import Progress
from vhsbench.harness.common.atomic import room_on_disk, write_atomic
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.config.local_paths import Base
from vhsbench.harness.training.config import TrainConfig
from vhsbench.harness.training.data import collect_data
from vhsbench.verifiers.training.data import Data, open_data
from vhsbench.verifiers.training.shards import MANIFEST
from vhsbench.verifiers.training.train import CHECKPOINT, train_verifier
from vhsbench.verifiers.verifier import NEEDS

Report = Callable[[Progress], None]
CONFIG = "train.yaml"


class LaunchError(VhsbenchError):
    """Training processes that failed; the message is one sentence for a user."""


def train(config: TrainConfig, out: Path, report: Report = lambda _: None) -> Path:
    """Train in `out`, or continue there; return the checkpoint's folder.

    Raises what collecting and training raise, each in one sentence, and LaunchError.
    """
    as_device(config.engine.device)
    data = _data(config, out, report)
    if config.engine.processes == 1 or "WORLD_SIZE" in os.environ:
        return train_verifier(config.recipe, config.generator.name, data, out, report)
    # here, where a mistake is reported once, not by every process
    open_data(config.recipe, config.generator.name, data, config.engine.verify_data)
    _launch(config, out)
    return out / CHECKPOINT


def _data(config: TrainConfig, out: Path, report: Report) -> Data:
    """Return the folders of shards; this process first collects what is missing."""
    folders = config.data.folders(out, NEEDS[config.verifier.kind])
    if config.data.captions is None and config.data.alignment is None:
        del folders["alignment"]  # the captions of the labelled images are used
    if (
        not all((folder / MANIFEST).exists() for folder in folders.values())
        and "WORLD_SIZE" not in os.environ
    ):
        collect_data(config, out, config.engine.device, report)
    return Data(folders["train"], folders["validation"], folders.get("alignment"))


def _launch(config: TrainConfig, out: Path) -> None:
    """Run this command in as many processes as the engine asks for."""
    file = out / CONFIG
    plain = json.loads(config.model_dump_json(exclude={"ablations"}))
    plain = Base(Path.cwd(), lenient=True).anchored(
        plain, TrainConfig
    )  # in a file it would be relative to the file
    with room_on_disk(out):
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(file, yaml.safe_dump(plain, sort_keys=False).encode())
    command = [
        sys.executable, "-m", "vhsbench.harness.common.tied", str(os.getpid()), "torch.distributed.run", "--standalone",
        f"--nproc-per-node={config.engine.processes}", "-m", "vhsbench.harness.cli",
        "train", "verifier", str(file), "--out", str(out), "--set", "engine.verify_data=false",
    ]  # fmt: skip
    status = subprocess.run(command, check=False, stdout=2).returncode  # the result is printed here alone
    if status:
        raise LaunchError(
            f"a training process failed (exit status {status}; its message is above): "
            "run the same command to go on from the last state."
        )
