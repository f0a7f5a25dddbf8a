"""The files from which a killed stage continues: the latest state, and the best weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vhsbench.harness.common.atomic import DiskFullError, disk_full, sync
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import ending
from vhsbench.harness.common.locks import HeldError, hold
from vhsbench.harness.common.tensors import load_tensors

_POINT = "point.json"
_NO_ROOM = 1 << 20  # bytes


class InUseError(VhsbenchError):
    """A folder in use by another training; the message is one sentence for a user."""


class States:
    """Folders <out>/state/<stage>-<step>: accelerate's own state and the stage's position."""

    def __init__(self, out: Path, accelerator: Any) -> None:
        self._folder, self._accelerator = out / "state", accelerator

    def load(self, stage: str) -> dict[str, Any]:
        """Restore models and optimisers from the latest state; return its position, or nothing."""
        found = self._saved(stage)
        if not found:
            return {}
        self._accelerator.load_state(str(found[-1]))
        # not by the strict reader of JSON: before the first validation the best loss is Infinity
        return dict(json.loads((found[-1] / _POINT).read_text(encoding="utf-8")))

    def save(self, stage: str, point: dict[str, Any]) -> None:
        """Replace the state by a new one. Raises DiskFullError."""
        target = self._folder / f"{stage}-{point['step']:09d}"
        work = ending(target, ".tmp")
        old = self._saved(stage)
        if self._accelerator.is_main_process:
            shutil.rmtree(work, ignore_errors=True)
        self._accelerator.wait_for_everyone()
        with writing(self._folder):
            work.mkdir(parents=True, exist_ok=True)
            # torch.save, because safetensors would warn of the tied embeddings
            self._accelerator.save_state(str(work), safe_serialization=False)
        self._accelerator.wait_for_everyone()
        if self._accelerator.is_main_process:
            with writing(self._folder):
                (work / _POINT).write_text(json.dumps(point), encoding="utf-8")
                sync_all(work)
            os.replace(work, target)
            for folder in old:
                shutil.rmtree(folder)
        self._accelerator.wait_for_everyone()

    def keep_best(self, stage: str, weights: dict[str, torch.Tensor]) -> None:
        """Write the best weights so far. Raises DiskFullError."""
        if self._accelerator.is_main_process:
            file = self._best(stage)
            write_tensors(file, weights)
        self._accelerator.wait_for_everyone()

    def best(self, stage: str) -> dict[str, torch.Tensor]:
        return load_tensors(self._best(stage))

    def clear(self) -> None:
        if self._accelerator.is_main_process:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _best(self, stage: str) -> Path:
        return self._folder / f"{stage}-best.safetensors"

    def _saved(self, stage: str) -> list[Path]:
        return sorted(f for f in self._folder.glob(f"{stage}-*") if f.is_dir() and f.suffix != ".tmp")


def write_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a safetensors file atomically; a tensor that several names share is stored once."""
    from safetensors.torch import save_file

    seen: dict[int, str] = {}
    unique = {k: v.detach().cpu() for k, v in tensors.items() if seen.setdefault(v.data_ptr(), k) == k}
    temporary = file.with_name(f".{file.name}.tmp")
    with writing(file.parent):
        file.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in unique.items()}, temporary)
        os.replace(temporary, file)


@contextmanager
def held(out: Path, main: bool) -> Iterator[None]:
    """Keep other trainings out of `out` until this one or its process ends. Raises InUseError."""
    if not main:  # the first process holds it for all
        yield
        return
    try:
        lock = hold(out / ".lock")
    except HeldError:
        raise InUseError(f"another training is at work in {out}; wait for it or stop it.") from None
    with lock:
        yield


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn a failure to write in `folder` into a sentence if its disk is full. Raises DiskFullError.

    safetensors reports that in its own error; torch.save reports something else, and leaves no room.
    """
    try:
        yield
    except Exception as error:
        said = str(error)
        there = next(f for f in (folder, *folder.absolute().parents) if f.exists())
        if "No space left" in said or "quota" in said or shutil.disk_usage(there).free < _NO_ROOM:
            raise DiskFullError(disk_full(folder)) from error
        raise


def sync_all(folder: Path) -> None:
    """Sync a folder and all its files to disk."""
    for file in [*folder.rglob("*"), folder]:
        sync(file)
