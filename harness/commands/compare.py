"""`vhsbench compare`: finished runs side by side."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from vhsbench.harness.common.terminal import Json, console, print_json, quiet

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from vhsbench.harness.report.side_by_side import SideBySide


def compare(
    runs: Annotated[list[str], typer.Argument(help="Finished runs (or URLs); the first is compared with.")],
    budget: Annotated[
        list[str] | None,
        typer.Option(help="As 550ms, 3TFLOP, 24GB or 40J, several times; default: the first run's budgets."),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder (or URL) for compare.html and tables; default: the console alone."),
    ] = None,
    page_mb: Annotated[
        float | None, typer.Option(min=1, max=2000, help="Most MB of compare.html; default: 25.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Put finished runs side by side: accuracy by budget, and differences paired by prompt."""
    quiet(models=False)
    from vhsbench.harness.cost.cost_model import parse_budget
    from vhsbench.harness.report import side_by_side_page as pages
    from vhsbench.harness.report.derived import derive
    from vhsbench.harness.report.side_by_side import side_by_side
    from vhsbench.harness.store.folder import local_copy, local_output
    from vhsbench.harness.store.tables import load_run

    budgets = [parse_budget(text) for text in budget or []]
    with ExitStack() as stack:
        derived = [derive(load_run(stack.enter_context(local_copy(run)))) for run in runs]
        found = side_by_side(derived, runs, budgets)
        if out is not None:
            target = stack.enter_context(local_output(out))
            pages.write_tables(found, target / "tables")
            pages.write_page(
                found, target / "compare.html", **({} if page_mb is None else {"limit_mb": page_mb})
            )
    page = None if out is None else f"{out.rstrip('/')}/compare.html"
    if as_json:
        print_json(pages.summary(found) | {"page": page})
    else:
        show(found, page, console())


def show(found: SideBySide, page: str | None, console: Console) -> None:
    """Print a table for each budget, how runs are paired, what speaks against them, and where the page is."""
    from vhsbench.harness.report import side_by_side_page as pages
    from vhsbench.harness.report.page import warnings

    for budget, rows in pages.shown(found.rows).groupby("Budget", sort=False):
        if (rows["N"] != "").any():  # a note says why not
            said_below = rows.columns.intersection(["Budget", "Paired", "Protocol"])
            console.print(_table(str(budget), rows.drop(columns=said_below)))
    first = found.labels[0]
    for name, paired, prompts in _pairings(found.rows):
        said = f"paired by {prompts} prompts, {paired}" if prompts else paired
        console.print(f"{name} less {first}: {said}", highlight=False, markup=False)
    for said in found.protocols or [f"protocol of all: {found.runs[0].protocol.shown}"]:
        console.print(said, highlight=False, markup=False)
    for note in found.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    for name, run in zip(found.labels, found.runs, strict=True):
        for alarm, text in warnings(run):
            style = "bold red" if alarm else None
            console.print(f"{name}: {text}", style=style, highlight=False, markup=False)
    if page is not None:
        console.print(f"to open in a browser: {page}", highlight=False)


def _table(budget: str, rows: pd.DataFrame) -> Table:
    """Lay out one budget within 80 columns; a pipeline is named once."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=escape(f"at {budget}"),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for column in rows.columns:
        words = column in ("Pipeline", "Run")
        table.add_column(column, justify="left" if words else "right", overflow="fold", no_wrap=not words)
    last = ""
    for pipeline, *cells in rows.itertuples(index=False, name=None):
        table.add_row("" if pipeline == last else escape(pipeline), *(escape(str(cell)) for cell in cells))
        last = pipeline
    return table


def _pairings(rows: pd.DataFrame) -> list[tuple[str, str, int]]:
    """List how each run is paired with the first, and over how many prompts."""
    known = rows.dropna(subset="paired")[["run", "paired", "prompts"]].drop_duplicates()
    return [(str(run), str(paired), int(prompts)) for run, paired, prompts in known.itertuples(index=False)]
