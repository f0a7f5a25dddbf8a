"""`vhsbench run --dry-run`: what a sweep would do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from harness.terminal import console, quiet

if TYPE_CHECKING:
    from harness.config import RunConfig


def print_plan(config: RunConfig, as_json: bool) -> None:
    quiet()
    from harness.dry_run import dry_run

    found = dry_run(config)
    if as_json:
        print(json.dumps(found, indent=1))
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    budgets = [f"{budget:g}" for budget in found["budgets_ms"] or ()]
    title = f"{found['name']}: {found['prompts']} prompts, seeds {found['seeds']}, on {found['device']}"
    table = Table(title=escape(title), title_justify="left")
    for heading in ("generator", "steps", "verifier", "pool", "candidates"):
        table.add_column(heading, justify="left" if heading in ("generator", "verifier") else "right")
    for budget in budgets:
        table.add_column(f"N at {budget} ms", justify="right")
    table.add_column("A100 hours", justify="right")
    table.add_column("basis", overflow="fold")
    for cell in found["cells"]:
        ns = [_number(cell["n_by_budget"][budget]) for budget in budgets]
        table.add_row(
            escape(cell["generator"]), str(cell["steps"]), cell["verifier"], str(cell["pool"]),
            f"{cell['candidates']:,}", *ns, _number(cell["gpu_hours"]), cell["basis"],
        )  # fmt: skip
    out = console()
    out.print(table)
    hours = (
        "GPU hours unknown, as no time of it was published"
        if found["gpu_hours"] is None
        else f"at most {found['gpu_hours']} A100 hours to generate and score (by published times, not measured)"
    )
    out.print(
        f"{found['candidates']:,} candidates; {hours}; verdicts and the measurement of costs come on top. "
        f"Disk: at most {found['disk_gb']} GB.",
        highlight=False,
    )
    if not budgets:
        out.print(
            "Budgets are set by the run: what MLLM w/ CLIP takes for 2, 4 and 6 candidates.", highlight=False
        )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
