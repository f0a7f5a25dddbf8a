"""`vhsbench config`: the bundled configurations, and the JSON schemas of all kinds."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vhsbench.harness.commands import completion
from vhsbench.harness.common.terminal import print_json

if TYPE_CHECKING:
    from vhsbench.harness.common.settings import Strict

app = typer.Typer(help="Show bundled configurations, and the schemas of your own.", no_args_is_help=True)
_DIALECT = "https://json-schema.org/draft/2020-12/schema"  # a name, which nothing fetches


class Kind(StrEnum):
    """What has a configuration."""

    run = "run"
    gate = "gate"
    training = "training"


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(help="table1, nano, train-vhs, ...", autocompletion=completion.configurations),
    ],
) -> None:
    """Print a bundled configuration, of a run or a training, as YAML."""
    from vhsbench.harness.common.registry import nearest
    from vhsbench.harness.config.experiments import bundled, bundled_text
    from vhsbench.harness.config.yaml_files import ConfigError

    names = [*bundled(), *bundled(trainings=True)]
    if name not in names:
        raise ConfigError(f"'{name}' is no bundled configuration; {nearest(name, names)}")
    print(bundled_text(name), end="")


@app.command()
def schema(
    kind: Annotated[Kind, typer.Argument(help="run, gate or training.")] = Kind.run,
) -> None:
    """Print the JSON schema of a configuration's YAML, by which an editor completes and checks it.

    Written to run.schema.json, it is named in the first line of a YAML file beside it:
    `# yaml-language-server: $schema=run.schema.json`.
    """
    print_json(schema_of(kind))


def schema_of(kind: Kind) -> dict[str, Any]:
    """Return the JSON schema of a kind of configuration."""
    return {"$schema": _DIALECT, **_model(kind).model_json_schema()}


def _model(kind: Kind) -> type[Strict]:
    if kind is Kind.run:
        from vhsbench.harness.config.run import RunConfig

        return RunConfig
    if kind is Kind.gate:
        from vhsbench.harness.regress.gate_config import GateConfig

        return GateConfig
    from vhsbench.harness.training.config import TrainConfig

    return TrainConfig
