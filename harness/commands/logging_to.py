"""The option --log-to of commands that take long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vhsbench.harness.commands import completion

if TYPE_CHECKING:
    from vhsbench.harness.loggers.logs import Logs

LogTo = Annotated[
    list[str] | None,
    typer.Option(
        "--log-to",
        help="Show progress and results there too: tensorboard, wandb, mlflow or a logger of yours; repeatable.",
        autocompletion=completion.loggers,
    ),
]


def logging_to(names: Sequence[str] | None, folder: str | Path, config: Mapping[str, Any]) -> Logs:
    """Make the loggers of a command, a context manager. Raises as Logs does."""
    from vhsbench.harness.loggers.logs import Logs

    return Logs(names or (), folder, config)
