"""MLflow; its own variables (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ...) say where."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from vhsbench.harness.loggers.protocol import LoggerDefaults, LoggerError

try:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
except ImportError:
    raise LoggerError("logger 'mlflow' needs MLflow: pip install 'vhsbench[mlflow]'.") from None

EXPERIMENT = "vhsbench"  # unless MLFLOW_EXPERIMENT_NAME names another
_MOST_CHARACTERS = 6000  # of a parameter


class MlflowRun(LoggerDefaults):
    """An MLflow run of the experiment."""

    def __init__(self, folder: str, config: Mapping[str, Any]) -> None:
        self._client: Any = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        found = self._client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else self._client.create_experiment(name)
        run = self._client.create_run(experiment, run_name=PurePath(folder).name)
        self._id = run.info.run_id
        params = [Param(key, str(value)[:_MOST_CHARACTERS]) for key, value in config.items()]
        self._client.log_batch(self._id, params=params)

    def log(self, group: str, values: Mapping[str, float], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [Metric(_key(f"{group}/{name}"), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._id, metrics=metrics)

    def keep(self, folder: Path, files: Sequence[Path]) -> None:
        for file in files:
            inside = file.relative_to(folder).parent.as_posix()
            self._client.log_artifact(self._id, str(file), None if inside == "." else inside)

    def close(self, ok: bool) -> None:
        self._client.set_terminated(self._id, "FINISHED" if ok else "FAILED")


def _key(text: str) -> str:
    """Write a metric's name as MLflow allows it."""
    return re.sub(r"[^\w\-./ ]", "_", text)
