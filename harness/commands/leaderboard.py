"""`vhsbench leaderboard`: submissions of finished runs, ranked within their protocol."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from vhsbench.harness.common.exit_codes import FAILURES
from vhsbench.harness.common.terminal import Json, console, print_json, quiet

if TYPE_CHECKING:
    from rich.console import Console

    from vhsbench.harness.report.leaderboard import Leaderboard


def leaderboard(
    runs: Annotated[list[str], typer.Argument(help="Finished runs, or folders of them; also fsspec URLs.")],
    budget: Annotated[
        str | None,
        typer.Option(
            help="As 3TFLOP, 550ms, 24GB or 40J; default: the TFLOP of the costliest one's best of 4."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder (or URL) for leaderboard.html and .csv; default: the console alone."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Rank generators with verifiers of finished runs by accuracy at one budget, within each protocol.

    Exit code 1: done, but some runs are damaged or unfinished, or do not say their protocol, and are listed as not ranked.
    """
    quiet(models=False)
    from vhsbench.harness.cost.cost_model import parse_budget
    from vhsbench.harness.report import leaderboard_page as pages
    from vhsbench.harness.report.leaderboard import leaderboard as rank
    from vhsbench.harness.report.leaderboard import runs_in
    from vhsbench.harness.store.folder import local_copy, local_output

    at = None if budget is None else parse_budget(budget)
    with ExitStack() as stack:
        found = {}
        for place in runs:
            copy = stack.enter_context(local_copy(place))
            for run in runs_in(copy):
                inside = run.relative_to(copy).as_posix()
                found[place if inside == "." else f"{place.rstrip('/')}/{inside}"] = run
        board = rank(found, at)
        if out is not None:
            pages.write(board, stack.enter_context(local_output(out)))
    page = None if out is None else f"{out.rstrip('/')}/leaderboard.html"
    if as_json:
        print_json(pages.summary(board) | {"page": page})
    else:
        show(board, page, console())
    if board.refused:
        raise typer.Exit(FAILURES)


def show(found: Leaderboard, page: str | None, console: Console) -> None:
    """Print a table for each board, what is not ranked, and where the page is."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from vhsbench.harness.report import leaderboard_page as pages

    for board in found.boards:
        said = "; ".join(f"{name} {value}" for name, value in pages.about(board)[:2])
        table = Table(
            title=escape(f"protocol {board.protocol.digest}: {said}"), title_justify="left", box=SIMPLE_HEAD,
            padding=(0, 1, 0, 0), show_edge=False,
        )  # fmt: skip
        rows = [pages.shown(row) for _, row in board.rows.iterrows()]
        columns = ["Rank", "Verifier", "Overall % [95%]", "N", "Run", "Generator", "Device"]
        for column in columns:
            table.add_column(column, overflow="fold", no_wrap=column in ("Rank", "N", "Overall % [95%]"))
        for row in rows:
            table.add_row(*(escape(row[column]) for column in columns))
        console.print(table)
    for name, reason in found.refused:
        console.print(f"not ranked: {name}: {reason}", highlight=False, markup=False)
    if page is not None:
        console.print(f"to open in a browser: {page}", highlight=False)
