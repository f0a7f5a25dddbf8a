"""`vhsbench judge`: another judge for a finished run's candidates."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vhsbench.harness.commands.run import Engine, sweep
from vhsbench.harness.common.terminal import Json, console, print_json, quiet


def judge(
    run: Annotated[str, typer.Argument(help="A finished run's directory, or its fsspec URL.")],
    judge: Annotated[
        list[str],
        typer.Option(
            help="As in a run's YAML: a name, or '{name: geneval, label: other, options: {...}}'; repeatable."
        ),
    ],
    engine: Annotated[
        Engine, typer.Option(help="Where pictures are made again: here, or by Ray.")
    ] = Engine.local,
    as_json: Json = False,
) -> None:
    """Let another judge judge a finished run's candidates; no other table changes. Resumes.

    Pictures that the run did not keep are made again from their seeds, and must be the same bit for bit.
    """
    quiet()
    from vhsbench.harness.store.tables import load_run
    from vhsbench.harness.sweep.verdicts import agreement, with_judges

    config = with_judges(run, judge)
    sweep(config, run, engine, None, None, None, not as_json)
    rows: list[Any] = agreement(load_run(run).verdicts).to_dict("records")
    if as_json:
        print_json(rows)
        return
    for row in rows:
        right = "" if row["right"] is None else f", {100 * row['right']:.1f}% right"
        line = f"{row['judge']}: {row['candidates']} candidates, mean value {row['value']:.3f}{right}"
        console().print(line, highlight=False, markup=False)
