"""Weights & Biases; its own variables (WANDB_PROJECT, WANDB_MODE, WANDB_RUN_ID, ...) say where and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from vhsbench.harness.loggers.protocol import LoggerDefaults, LoggerError

try:
    import wandb
except ImportError:
    raise LoggerError("logger 'wandb' needs wandb: pip install 'vhsbench[wandb]'.") from None


class WandbRun(LoggerDefaults):
    """A W&B run. It samples no machine and copies no terminal: both would take time from what is measured."""

    def __init__(self, folder: str, config: Mapping[str, Any]) -> None:
        settings = wandb.Settings(console="off", x_disable_stats=True, silent=True)
        self._run: Any = wandb.init(name=PurePath(folder).name, config=dict(config), settings=settings)
        self._groups: set[str] = set()

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        at = f"{group}/step"  # W&B's own step only grows, and each group counts its own
        if group not in self._groups:
            self._groups.add(group)
            self._run.define_metric(f"{group}/*", step_metric=at)
        self._run.log({f"{group}/{name}": value for name, value in values.items()} | {at: step})

    def keep(self, folder: Path, files: Sequence[Path]) -> None:
        artifact = wandb.Artifact(f"report-{self._run.id}", type="report")
        for file in files:
            artifact.add_file(str(file), name=file.relative_to(folder).as_posix())
        self._run.log_artifact(artifact)

    def close(self, ok: bool) -> None:
        self._run.finish(exit_code=0 if ok else 1)
