"""`vhsbench history`: accuracy, AUC and time over accepted baselines and comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vhsbench.harness.common.terminal import Json, console, path, print_json, quiet


def history(
    places: Annotated[
        list[Path], typer.Argument(help="Folders, searched for regression.json and logs of baselines.")
    ],
    out: Annotated[
        Path | None, typer.Option(parser=path, help="Folder for history.csv, history.md and history.html.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show accuracy, AUC and time by date and commit: accepted baselines and every comparison."""
    quiet(models=False)
    from vhsbench.harness.regress import history_page
    from vhsbench.harness.regress.history import history as collect
    from vhsbench.harness.report.tables import records

    rows = collect(places)
    if out is not None:
        history_page.write(rows, out)
    page = None if out is None else str(out / "history.html")
    if as_json:
        print_json({"history": records(rows), "page": page})
        return
    if rows.empty:
        print("there is no regression.json and no log of baselines there.")
        return
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    columns = ["when", "event", "source", "commit", "at", "accuracy", "auc", "ms", "device"]
    for column in columns:
        table.add_column(column, overflow="fold")
    for values in history_page.shown(rows)[columns].itertuples(index=False, name=None):
        when, event, source, commit, *rest = map(str, values)
        table.add_row(*map(escape, (when[:16], event, source, commit[:7], *rest)))
    console().print(table)
    if page is not None:
        console().print(f"to open in a browser: {page}", highlight=False)
