"""Loggers: where progress and results are shown beside a run's own files, such as TensorBoard, W&B, MLflow or your own."""

from __future__ import annotations

from vhsbench.harness.common.registry import Registry
from vhsbench.harness.loggers.protocol import Logger, LoggerDefaults, LoggerError

__all__ = ["REGISTRY", "Logger", "LoggerDefaults", "LoggerError"]

REGISTRY: Registry[Logger] = Registry(
    "logger",
    "vhsbench.loggers",
    {
        "mlflow": "vhsbench.harness.loggers.mlflow_runs:MlflowRun",
        "tensorboard": "vhsbench.harness.loggers.tensorboard_events:TensorBoard",
        "wandb": "vhsbench.harness.loggers.wandb_runs:WandbRun",
    },
    Logger,
    LoggerDefaults,
)
