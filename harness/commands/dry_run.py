"""`vhsbench run --dry-run`: what a sweep would do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vhsbench.harness.common.terminal import console, print_json, quiet

if TYPE_CHECKING:
    from vhsbench.harness.config.run import RunConfig


def print_plan(config: RunConfig, as_json: bool) -> None:
    quiet()
    from vhsbench.harness.sweep.dry_run import dry_run

    found = dry_run(config)
    if as_json:
        print_json(found)
    else:
        _show(found)


def _show(found: dict[str, Any]) -> None:
    """Print at most 80 columns: budgets share one, and what a time is known by stands below."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    budgets = [f"{budget:g}" for budget in found["budgets_ms"] or ()]
    others = [text for text in found["budgets"] if not text.endswith("ms")]
    out = console()
    title = f"{found['name']}: {found['prompts']} prompts, seeds {found['seeds']}, on {found['device']}"
    out.print(escape(title), highlight=False)
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("generator", overflow="fold")
    table.add_column("steps", justify="right", no_wrap=True)
    table.add_column("verifier", no_wrap=True)
    for heading in ("pool", "candidates"):
        table.add_column(heading, justify="right", no_wrap=True)
    if budgets:
        table.add_column(f"N at {' / '.join(budgets)} ms", justify="right", min_width=12)
    table.add_column("A100 h", justify="right", no_wrap=True)
    table.add_column("by", justify="right", no_wrap=True)
    if others:
        table.add_column(f"N at {' / '.join(others)}", justify="right")
    bases = list(dict.fromkeys(cell["basis"] for cell in found["cells"]))
    for cell in found["cells"]:
        ns, more = (
            [_number(cell["n_by_budget"][budget]) or "-" for budget in part] for part in (budgets, others)
        )
        table.add_row(
            escape(cell["generator"]), str(cell["steps"]), cell["verifier"], str(cell["pool"]),
            f"{cell['candidates']:,}", *([" / ".join(ns)] if budgets else []),
            *([" / ".join(more)] if others else []), _number(cell["gpu_hours"]),
            str(1 + bases.index(cell["basis"])),
        )  # fmt: skip
    out.print(table)
    for number, basis in enumerate(bases, start=1):
        out.print(f"by {number}: {escape(basis)}", highlight=False)
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
            "Time budgets are set by the run: what MLLM w/ CLIP takes for 2, 4 and 6 candidates.",
            highlight=False,
        )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"
