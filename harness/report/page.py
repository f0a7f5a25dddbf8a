"""report.html: one file that opens from disk, with budgets to try, tables to sort, charts and candidates to search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from markupsafe import Markup

from vhsbench.harness.cost.reliability import in_one_line
from vhsbench.harness.report import charts, page_budgets, page_candidates, page_file, published, tables
from vhsbench.harness.report.comparisons import NO_SCORING, AccuracyTable
from vhsbench.harness.report.derived import Derived
from vhsbench.harness.report.page_candidates import PAGE_MB, Album
from vhsbench.harness.report.style import label
from vhsbench.harness.store.tables import environments

_OPTIMISED = (
    "Winners of best-of-N by the verifier's own score and by judges",
    "N at which these measures part",
)


def write_page(derived: Derived, file: Path, with_published: bool = False, limit_mb: float = PAGE_MB) -> None:
    """Write the page, of at most `limit_mb`. Everything from the run is escaped; the page loads nothing."""
    pools = page_candidates.pools(derived, prompts := page_candidates.Prompts(), limit_mb=limit_mb)
    shown = _tables(derived, with_published)
    data = _data(derived) | {"prompts": prompts.shown, "links": _links(derived, shown)}
    fixed = {
        "title": derived.config.name,
        "facts": facts(derived),
        "tables": [{"id": _id(t), "title": t.title, "html": Markup(tables.html(t))} for t in shown],
        "times": derived.times,
        "tolerance": derived.config.tolerance,
        "verdict": derived.standings.sentences,
        "strategy_verdict": derived.strategy_sentences,
        "verdict_table": Markup(tables.html(derived.verdict_table)),
        "headline": _headline(derived, with_published),
        "plain": _plain(derived),
        "unmeasured": derived.unmeasured,
        "people": _people(derived),
        "failed": Markup(tables.html(derived.failed)) if len(derived.failed) else "",
        "tasks": charts.curve_names(derived.curves["tag"]),
        "environment_text": yaml.safe_dump(_environment(derived), sort_keys=False, allow_unicode=True),
        "config_text": yaml.safe_dump(derived.run.info["config"], sort_keys=False, allow_unicode=True),
        "with_published": with_published,
    }

    def context(album: Album) -> dict[str, Any]:
        found = warnings(derived)
        said = {text for _, text in found}
        return fixed | {
            "warnings": found,
            "notes": [note for note in derived.notes if note not in said],
            "about_pictures": page_candidates.about_pictures(album, pools, limit_mb),
            "kept_pictures": album.kept,
        }

    page_file.write(file, "report.html.j2", data, pools, limit_mb, context)


def warnings(derived: Derived) -> list[tuple[bool, str]]:
    """List what a reader must know before the numbers: whether it is an alarm, and a sentence."""
    found = [(True, in_one_line(derived.unreliable))] if derived.unreliable else []
    if failed := len(derived.failed):
        pools = "1 pool" if failed == 1 else f"{failed} pools"
        found.append((False, f"{pools} of candidates failed and count nowhere: see Failed prompts."))
    if missing := len(derived.unmeasured):
        costs = "1 cost is" if missing == 1 else f"{missing} costs are"
        found.append((False, f"{costs} missing: see Without a cost."))
    return found + [(False, note) for note in derived.about_data]


def _data(derived: Derived) -> dict[str, Any]:
    """Collect what the page's script reads, less candidates."""
    lines = page_budgets.pipelines(derived)
    by_n, values = charts.accuracy_by_n(derived)
    figures = {"by-n": by_n}
    if derived.has_costs:
        figures["stages"] = charts.stage_times(derived)
    if lines:
        figures["over-time"] = charts.accuracy_over_time(lines, derived.times)
        figures["scores"] = charts.score_histograms(derived)
        if (chart := charts.reliability_chart(derived)) is not None:
            figures["reliability"] = chart
    return {
        "pipelines": lines,
        "units": page_budgets.units(lines, derived) if lines else [],
        "tolerance": derived.config.tolerance,
        "byTask": values,
        "figures": {name: json.loads(figure.to_json()) for name, figure in figures.items()},
    }


def facts(derived: Derived) -> list[tuple[str, str]]:
    """List what was run, in a few words each."""
    devices = ", ".join(sorted({str(d) for d in derived.run.costs["device"].dropna()})) or "unknown"
    seeds = ", ".join(map(str, derived.config.seeds))
    pools = ", ".join(g if s == 1 else f"{g} ({s} steps)" for g, s in derived.pools)
    suite = derived.config.suite
    return [
        ("prompts", str(len(derived.run.prompts))),
        *([("suite", f"{suite.name}; its score: {suite.create().score}")] if suite else []),
        ("candidates", f"{len(derived.run.candidates):,}"),
        ("generators", pools),
        ("verifiers", ", ".join(label(v) for v in derived.needs) or "none"),
        ("seeds", seeds),
        ("protocol", derived.protocol.shown),
        ("times", derived.clock.label) if derived.times else ("times measured on", devices),
        ("costs left out", derived.left_out or "none"),
    ]


def _tables(derived: Derived, with_published: bool) -> list[AccuracyTable]:
    return [
        published.beside(table, derived.names, derived.config.kinds)
        if with_published and table.published
        else table
        for table in derived.tables
    ]


def _id(table: AccuracyTable) -> str:
    return f"table-{table.name}"


def _links(derived: Derived, shown: list[AccuracyTable]) -> dict[str, Any]:
    """Map the tables' ids to what is behind their accuracies.

    By column the task; by row the pool (its place), verifier and N; None where there are no candidates behind.
    """
    return {
        _id(table): {
            "columns": [c if c in tables.accuracies(table.rows) else None for c in tables.columns(table)],
            "rows": [_link(derived, row) for _, row in table.rows.iterrows()],
        }
        for table in shown
    }


def _link(derived: Derived, row: pd.Series) -> list[Any] | None:
    picked = row["verifier"] != "none" and pd.notna(row["best_of_n"])
    ours = row.get("source", published.MEASURED) == published.MEASURED and row.get("scoring") != NO_SCORING
    pool = (row["generator"], row["steps"])
    if not (picked and ours) or pool not in derived.pools:
        return None
    return [derived.pools.index(pool), row["verifier"], int(row["best_of_n"])]


def _headline(derived: Derived, with_published: bool) -> Markup | str:
    """Lay out VHS against MLLM w/ CLIP; "" for a run that did not measure both."""
    frame = derived.headline.round({"measured": 1, "low": 1, "high": 1})
    frame = published.headline_beside(frame, derived.names) if with_published else frame
    return Markup(tables.html(frame.drop(columns=["key", "steps"]))) if len(frame) else ""


def _plain(derived: Derived) -> list[dict[str, Any]]:
    over = derived.over_optimisation
    optimised = (over.table.shown, over.parting_table.shown) if over else ()
    found = [
        ("Strategies at equal cost, of held-out prompts", derived.strategies[0]),
        ("All pairs at every budget: difference in points, paired by prompt", derived.standings.pairs),
        ("Accuracy (%) averaged over the logarithm of time", derived.area),
        ("Time to reach an accuracy (%)", derived.time_to_accuracy),
        ("Share (%) of the way from one image to the oracle", derived.standings.headroom),
        ("T(N) against whole runs", derived.latency),
        ("Mean value (%) of best-of-N by judge", derived.judged),
        *zip(_OPTIMISED, optimised, strict=False),
        ("Diversity of winners", derived.diversity),
        ("Area under the ROC curve of the scores", derived.auc),
        ("Cost of every stage", derived.costs),
    ]
    return [{"title": title, "html": Markup(tables.html(frame))} for title, frame in found if len(frame)]


def _people(derived: Derived) -> dict[str, Any] | None:
    """Lay out what people's answers say; None without answers."""
    if (people := derived.people) is None:
        return None
    return {
        "about": people.about,
        "conclusions": people.conclusions,
        "accuracies": Markup(tables.html(people.accuracy_table)),
        "agreements": Markup(tables.html(people.agreement_table)),
    }


def _environment(derived: Derived) -> Any:
    info = derived.run.info
    found = [e for part in info.get("combined") or [info] for e in environments(part)]
    return {
        "protocol": derived.protocol.record,
        "environments": found,
        "checkpoints": info.get("checkpoints", {}),
    }
