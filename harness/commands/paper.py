"""`vhsbench paper`: the published record, and an audit of its own consistency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from vhsbench.harness.common.terminal import Json, console, print_json

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

_NUMBERS = {"single", "two", "counting", "color", "position", "attribution", "overall"}
# so that Table 1 fits 80 columns
_SHORT = {"budget_ms": "ms", "best_of_n": "N", "counting": "count", "position": "pos", "attribution": "attr"}


def register(app: typer.Typer) -> None:
    app.command()(paper)


def paper(as_json: Json = False) -> None:
    """Lay out the paper's published tables and claims, and audit their consistency."""
    found = record()
    if as_json:
        print_json(found)
    else:
        show(found, console())


def record() -> dict[str, Any]:
    """Return published tables, claims, Fig. 6's shares and the audit, as plain Python."""
    from vhsbench.results import readers
    from vhsbench.results.audit import audit

    places = readers.sources().set_index("table")
    entries = {name: readers.table(name) for name in readers.TABLES}
    entries |= {readers.CLAIMS: readers.claims(), readers.SHARES: readers.shares()}
    return {
        "label": "published",
        "paper": str(places["paper"].iloc[0]),
        "tables": {
            name: {"status": "published", "place": str(places.loc[name, "place"]), "rows": _records(frame)}
            for name, frame in entries.items()
        },
        "audit": _records(audit()),
    }


def show(found: dict[str, Any], console: Console) -> None:
    for entry in found["tables"].values():
        console.print(_table(f"published: {entry['place']}", entry["rows"]))
    checks = found["audit"]
    odd = [row for row in checks if not row["agrees"]]
    title = (
        f"audit of the published numbers: {len(checks) - len(odd)} of {len(checks)} checks agree; the others"
    )
    console.print(_table(title, odd))
    console.print(f"All of it is published in: {found['paper']}. Nothing here was measured.", highlight=False)


def _table(title: str, rows: list[dict[str, Any]]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title), title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    # the title says where the table stands
    columns = [c for c in rows[0] if c != "source" or len({r[c] for r in rows}) > 1]
    for column in columns:
        numeric = all(isinstance(r[column], int | float) or r[column] is None for r in rows)
        heading = _SHORT.get(column, column.replace("_", " "))
        table.add_column(heading, justify="right" if numeric else "left", overflow="fold", no_wrap=numeric)
    for row in rows:
        table.add_row(*(escape(_text(column, row[column])) for column in columns))
    return table


def _text(column: str, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.1f}" if column in _NUMBERS else f"{value:g}" if isinstance(value, float) else str(value)


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as plain Python, None where the paper prints nothing."""
    objects = frame.astype(object).where(frame.notna(), None)
    return [
        {str(k): v.item() if hasattr(v, "item") else v for k, v in row.items()}
        for row in objects.to_dict("records")
    ]
