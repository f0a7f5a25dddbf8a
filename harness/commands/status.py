"""`vhsbench status`: a run's progress, from another terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from vhsbench.harness.common.terminal import Json, console, print_json


def status(
    run: Annotated[str, typer.Argument(help="A run's directory, or its fsspec URL.")],
    as_json: Json = False,
) -> None:
    """Say how far a run is: progress, rate, time left, failed prompts and why."""
    from vhsbench.harness.sweep.status import show
    from vhsbench.harness.sweep.status import status as read

    found = read(run)
    if as_json:
        print_json(found)
    else:
        show(found, console())
