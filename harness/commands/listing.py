"""What the terminal shows: the registries' entries, and a run's summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from vhsbench import generators, verifiers
from vhsbench.harness import judges, suites
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.registry import RegistryError, nearest
from vhsbench.harness.common.shown import one_line
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.cost.reliability import in_one_line
from vhsbench.harness.stats.intervals import brackets

_KINDS = {"generators": generators, "verifiers": verifiers, "judges": judges, "suites": suites}
_FAILED_SHOWN = 10  # failed prompts; the report and `vhsbench status` name all
_BELOW = ("family", "licence", "source", "error")
_HEADINGS = {
    "budget_ms": "budget ms", "generator": "generator", "verifier": "verifier", "best_of_n": "N",
    "time_ms": "time ms", "overall": "overall % [95%]", "geneval_overall": "GenEval % [95%]",
}  # fmt: skip


def listing(kind: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """Return the entries of one registry or all; one that cannot be used says why under "error"."""
    if kind is not None and kind not in _KINDS:
        raise RegistryError(f"nothing to list as '{kind}'; {nearest(kind, list(_KINDS))}")
    found: dict[str, list[dict[str, Any]]] = {}
    for name, package in _KINDS.items():
        if kind in (None, name):
            registry = package.REGISTRY
            names = registry.own() if package is judges else registry.names()
            found[name] = [_entry(package, entry) for entry in names]
            if package is judges:
                found[name] += _of_verifiers(names, found.get("verifiers"))
            found[name] += [{"name": k, "error": why} for k, why in registry.refused().items()]
    return found


def _of_verifiers(taken: Sequence[str], known: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]]:
    """Describe the judges that verifiers of images make; `known` are the verifiers' entries, if they are there."""
    entries = listing("verifiers")["verifiers"] if known is None else known
    return [
        {"name": e["name"], "made_of": "verifier", "parameters": e["parameters"], "source": e["source"]}
        for e in entries
        if e.get("needs") == "images" and e["name"] not in taken
    ]


def _entry(package: Any, name: str) -> dict[str, Any]:
    try:
        if package is suites:
            return suites.create(name).info()
        if package is judges:
            judges.REGISTRY.get(name)  # one that cannot be loaded says why
            return {"name": name, "made_of": "itself", "parameters": None, "source": ""}
        return asdict(package.describe(name))
    except VhsbenchError as error:
        return {"name": name, "error": str(error)}
    except (Exception, SystemExit) as error:
        if package.REGISTRY.is_builtin(name):
            raise
        return {"name": name, "error": f"a plugin that raises {one_line(error)}"}


def show(found: Mapping[str, list[dict[str, Any]]], console: Console) -> None:
    """Print a table of each kind; what is long (licence, source, errors) is said below it, a line an entry."""
    for kind, entries in found.items():
        columns = list(dict.fromkeys(k for e in entries for k in e if k not in _BELOW))
        table = Table(title=kind, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for column in columns:
            number = all(isinstance(e.get(column), int | float | None) for e in entries)
            table.add_column(
                column.replace("_", " "), justify="right" if number else "left", no_wrap=column == "name"
            )
        for entry in entries:
            table.add_row(
                *(_count(entry.get(c)) if c == "parameters" else _text(entry.get(c)) for c in columns)
            )
        console.print(table)
        for entry in entries:
            said = "; ".join(str(entry[k]) for k in _BELOW if entry.get(k))
            if said:
                console.print(f"{entry['name']}: {said}", highlight=False, soft_wrap=True)


def show_summary(summary: Mapping[str, Any], console: Console) -> None:
    """Print the main comparison, and where its tables and figures lie."""
    if summary["timing_reasons"]:
        console.print(in_one_line(summary["timing_reasons"]), style="bold red", highlight=False, markup=False)
    for row in summary["verdict"]:
        console.print(row["sentence"], style="bold", highlight=False, markup=False)
    for line in summary["strategy_verdict"]:
        console.print(line, highlight=False, markup=False)
    times = f"accuracies measured here; times: {summary['times']}" if summary["times"] else "measured here"
    title = f"{summary['prompts']} prompts, pool of {summary['pool']}, seeds {summary['seeds']}; {times}"
    table = Table(title=title, box=SIMPLE_HEAD, padding=0, show_edge=False)
    one_pool = len({(row["generator"], row["steps"]) for row in summary["budgets"]}) == 1
    headings = {c: heading for c, heading in _HEADINGS.items() if not (c == "generator" and one_pool)}
    if not any(task in row for row in summary["budgets"] for task in TAGS):
        headings["geneval_overall"] = "tasks % [95%]"
    for heading in headings.values():
        words = heading in ("generator", "verifier")
        table.add_column(
            heading, justify="left" if words else "right", overflow="fold", no_wrap="[" in heading
        )
    last = None
    for row in summary["budgets"]:
        if last is not None and row["budget_ms"] != last:
            table.add_section()
        last = row["budget_ms"]
        table.add_row(*(_cell(row, column) for column in headings))
    console.print(table)
    for row in summary["auc"]:
        console.print(_auc(row), highlight=False, markup=False)
    errors = [abs(row["error_percent"]) for row in summary["latency"] if row["error_percent"] is not None]
    if errors:
        console.print(f"T(N) against whole runs: at most {max(errors):.1f}% off", highlight=False)
    if summary["left_out"]:
        console.print(f"costs left out: {summary['left_out']}", highlight=False, markup=False)
    for reason in summary["unmeasured"]:
        console.print(f"left out: {reason}", highlight=False, markup=False)
    for note in summary["notes"]:
        console.print(f"note: {note}", highlight=False, markup=False)
    failed = summary["failed_prompts"]
    for row in failed[:_FAILED_SHOWN]:
        where = f"{row['generator']}, seed {row['seed']}, prompt {row['prompt_id']} ({row['prompt']})"
        console.print(f"failed: {where}: {row['reason']}", highlight=False, markup=False)
    if len(failed) > _FAILED_SHOWN:
        more = f"failed: {len(failed) - _FAILED_SHOWN} more, all named in the report"
        console.print(more, highlight=False)
    console.print(f"protocol: {summary['protocol']['digest']}", highlight=False)
    console.print(f"tables and figures: {summary['run']}/tables, {summary['run']}/figures", highlight=False)
    if "paper" in summary:
        console.print(f"to compile or to take parts of: {summary['paper']}", highlight=False)
    console.print(f"to open in a browser: {summary['report']}", highlight=False)


def _auc(row: Mapping[str, Any]) -> str:
    if row["auc"] is not None:
        ends = brackets(row["low"], row["high"], ".3f")
        return f"AUC of {row['verifier']}: {row['auc']:.3f}{ends} (n = {row['n']})"
    return f"AUC of {row['verifier']}: unknown, as all candidates are {'right' if row['right'] else 'wrong'}"


def _cell(row: Mapping[str, Any], column: str) -> str:
    value = row[column]
    if value is None:
        return "below one candidate" if column == "time_ms" and row["below_one"] else ""
    if column in ("overall", "geneval_overall"):
        return f"{value:.1f}{brackets(row[f'{column}_low'], row[f'{column}_high'])}"
    if column == "generator" and row["steps"] > 1:
        return f"{value}, {row['steps']} steps"
    if column == "best_of_n":
        limited = "+" if row["pool_limited"] else ""
        same = row["n_low"] == row["n_high"]
        return f"{value}{limited}{'' if same else brackets(row['n_low'], row['n_high'], 'd')}"
    if column == "time_ms":
        return f"{value:.1f}{_plus_minus(value, row['time_low'], row['time_high'])}"
    return _text(value)


def _plus_minus(value: float, low: float | None, high: float | None) -> str:
    """Return the farther end of an interval, in percent."""
    if low is None or high is None:
        return ""
    return f" ±{100 * max(high - value, value - low) / value:.0f}%"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.1f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _count(value: int | None) -> str:
    """Write a number of parameters in millions or billions."""
    if value is None:
        return ""
    return f"{value / 1e9:.2f}B" if value >= 1e9 else f"{value / 1e6:.1f}M"
