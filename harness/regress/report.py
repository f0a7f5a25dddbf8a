"""Show and write a regression: console, Markdown, JSON, JUnit XML, and a picture of changed picks."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from vhsbench.harness.common.atomic import write_atomic, write_output
from vhsbench.harness.common.shown import markdown_table
from vhsbench.harness.regress.compare import Calibration, Difference, Separation
from vhsbench.harness.regress.gate import FAIL, INCONCLUSIVE, PASS, Check, Outcome, margin
from vhsbench.harness.regress.picks import ChangedPick
from vhsbench.harness.regress.points import OperatingPoint
from vhsbench.harness.regress.run import Regression
from vhsbench.harness.regress.speed import ratio_interval
from vhsbench.harness.stats.intervals import brackets, missed_share
from vhsbench.harness.sweep.protocol import Protocol

_STYLES = {PASS: "bold green", FAIL: "bold red", INCONCLUSIVE: "bold yellow"}
_ELEMENTS = {FAIL: "failure", INCONCLUSIVE: "skipped"}  # of JUnit
_COLORS = {True: "#009E73", False: "#D55E00"}  # of a right and a wrong pick
# characters that XML 1.0 cannot hold, even escaped
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(regression: Regression, out: Path) -> None:
    """Write regression.json, junit.xml, summary.md and, if the pool has pictures, changed_picks.png to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(regression.as_dict(), indent=1, allow_nan=False) + "\n"
    write_atomic(out / "regression.json", text.encode())
    write_atomic(out / "junit.xml", junit(regression))
    drawn = picture(regression, out / "changed_picks.png")
    write_atomic(out / "summary.md", markdown(regression, drawn).encode())


@dataclass(frozen=True)
class _Column:
    """A column of the table of accuracies; `narrow`: it is shown even where there are only 80 columns of text."""

    head: str
    meaning: str
    cell: Callable[[Difference], str]
    narrow: bool = True


_UNKNOWN, _AT_MOST, _NONE = "-", "<=", "none"
_COLUMNS: tuple[_Column, ...] = (
    _Column("task", "geneval_overall is the mean of the tasks and decides nothing", lambda row: row.tag),
    _Column("N", "candidates of which the verifier picks the best", lambda row: f"{row.strategy} {_ns(row.point)}".strip()),
    _Column("prompts", "their number", lambda row: str(row.n_prompts), narrow=False),
    _Column("base", "the baseline's exact best-of-N accuracy in percent", lambda row: f"{row.baseline:.2f}"),
    _Column("new", "the candidate's", lambda row: f"{row.candidate:.2f}"),
    _Column("points", "new less base", lambda row: f"{round(row.difference, 2) + 0.0:+z.2f}"),
    _Column(
        "95% interval", "of points, paired by prompt",
        lambda row: brackets(row.low, row.high, "+.2f").strip() or _UNKNOWN,
    ),
    _Column("p worse", "one-sided, corrected by Holm", lambda row: _number(row.p_holm, ".4f")),
    _Column("found", "the loss in points that is detected with 80% power", lambda row: _found(row)),
    _Column(
        "lost/won", "prompts whose pick turned wrong/right",
        lambda row: _UNKNOWN if row.lost is None else f"{row.lost}/{row.won}", narrow=False,
    ),
    _Column("p (McNemar)", "two-sided, of lost and won", lambda row: _number(row.p_mcnemar, ".4f"), narrow=False),
)  # fmt: skip
_MARKS = {  # what a cell is or begins with
    _AT_MOST: "that of verifiers with nothing in common, as these two do not differ",
    _NONE: "so few prompts (or permutations) show no loss with that power, not even of all that the baseline has",
    _UNKNOWN: "not known, or not tested",
}


def _cells(row: Difference, columns: Iterable[_Column] = _COLUMNS) -> dict[str, str]:
    """Return a row of the table of accuracies, by heading."""
    return {column.head: column.cell(row) for column in columns}


def legend(rows: Sequence[Difference], columns: Sequence[_Column] = _COLUMNS) -> str:
    """Explain each of these columns, and each mark that is in them."""
    cells = [cell for row in rows for cell in _cells(row, columns).values()]
    said = [f"{column.head}: {column.meaning}" for column in columns]
    for mark, meaning in _MARKS.items():
        if any(cell == mark or (mark == _AT_MOST and cell.startswith(mark)) for cell in cells):
            said.append(f"{mark}: {meaning}")
    if any(row.n_candidate is not None for row in rows):
        said.append("4/2: the N that a budget affords base/new")
    return "; ".join(said) + "."


def _found(row: Difference) -> str:
    if row.unseen:
        return _NONE
    if row.detectable is None and row.detectable_independent is not None:
        return f"{_AT_MOST}{row.detectable_independent:.2f}"
    return _number(row.detectable, ".2f")


def _ns(point: OperatingPoint) -> str:
    """Write N as "4", or as "550ms 4/2" of baseline and candidate."""
    same = point.n_baseline == point.n_candidate
    ns = str(point.n_baseline) if same else f"{point.n_baseline}/{point.n_candidate}"
    return f"{point.budget} {ns}".strip()


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:{form}}"


def facts(regression: Regression) -> list[str]:
    """Describe ranking, calibration, drift, changed picks, speed, memory and protocol, a line each."""
    c = regression.comparison
    overall = c.separation[0]
    picks = next(d for d in c.differences if d.is_overall and d.point == c.widest and not d.strategy)
    lines = [
        f"AUC {_number(overall.baseline, '.4f')} -> {_number(overall.candidate, '.4f')} "
        f"(p worse, Holm {_number(overall.p_holm, '.4f')})",
        *_calibration(*c.calibration),
        f"scores: KS {c.drift.ks:.4f}, Wasserstein {c.drift.wasserstein:.4f}, Spearman "
        f"{_number(c.drift.spearman, '.4f')} (within prompts {_number(c.drift.spearman_within, '.4f')})",
        f"{len(c.changed)} picks changed at {c.widest.shown}: {picks.lost} prompts lost, {picks.won} won (McNemar "
        f"p = {_number(picks.p_mcnemar, '.4f')})" + ("; every score is the same" if c.identical else ""),
    ]
    lines += [
        f"{d.strategy} at {d.budget}: mostly {' against '.join(dict.fromkeys(d.settings))}"
        for d in c.differences
        if d.is_overall and d.settings
    ]
    lines += _idle_margin(regression)
    missed = 100 * missed_share(c.n_prompts)
    if not c.identical and missed > regression.gate.margin_points:
        lines.append(
            f"rare losses: {c.n_prompts} prompts may include none of a kind that makes up {missed:.1f}% of all prompts; the "
            f"margin is {margin(regression.gate)}"
        )
    if s := regression.speed:
        lines += [
            f"scoring {_number(s.baseline_ms, '.2f')} -> {_number(s.candidate_ms, '.2f')} ms a candidate on "
            f"{s.device}: ratio {_number(s.time_ratio, '.2f')}{ratio_interval(s.time_low, s.time_high)}"
            + (f"; {s.tainted} of {s.repeats} rounds left out: {s.taint}" if s.tainted else ""),
            f"memory {s.baseline_gb:.4f} -> {s.candidate_gb:.4f} GB: ratio {s.memory_ratio:.2f}",
        ]
    return lines + _protocol(regression.protocols)


def _protocol(protocols: Sequence[Protocol]) -> list[str]:
    if not protocols:
        return []
    baseline, candidate = protocols
    apart = candidate.beside(baseline)
    other = f"; the candidate's is {candidate.shown}: {apart}" if apart else ""
    return [f"protocol {baseline.shown}{other}"]


def _idle_margin(regression: Regression) -> list[str]:
    """Say at which N the margin allows the loss of everything that the baseline has right."""
    allowed = [
        f"{row.baseline:.2f} at {row.where}"
        for row in regression.comparison.differences
        if row.is_overall and row.baseline <= regression.gate.margin_points
    ]
    at = ", ".join(allowed)
    return [f"no limit: the margin is {margin(regression.gate)}, the baseline's accuracy {at}"] if at else []


def show(regression: Regression, console: Console) -> None:
    """Print the report."""
    c, verdict = regression.comparison, regression.verdict
    console.print(f"{c.candidate} against {c.baseline}", markup=False)
    columns: Sequence[_Column] = _COLUMNS
    table = _table(c.differences, columns)
    if console.measure(table, options=console.options.update(width=1000)).maximum > console.width:
        columns = tuple(column for column in _COLUMNS if column.narrow)
        table = _table(c.differences, columns)
    console.print(table)
    console.print(legend(c.differences, columns), style="dim", markup=False, highlight=False)
    for line in facts(regression):
        console.print(f"  {escape(line)}")
    console.print(verdict.outcome, style=_STYLES[verdict.outcome])
    for reason in verdict.reasons:
        console.print(f"  {escape(reason)}")


def _table(rows: Iterable[Difference], columns: Sequence[_Column]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for column in columns:
        table.add_column(
            column.head, justify="left" if column.head == "task" else "right", no_wrap=column.head != "N"
        )
    for row in rows:
        table.add_row(*map(escape, _cells(row, columns).values()))
    return table


def _calibration(a: Calibration, b: Calibration) -> list[str]:
    """Describe the calibration; no line for verifiers without probabilities."""
    errors = [_number(side.ece, ".4f") for side in (a, b)]
    return [f"calibration error (ECE) {errors[0]} -> {errors[1]}"] if a.curve or b.curve else []


def markdown(regression: Regression, picture: Path | None = None) -> str:
    """Write a summary in Markdown, for a comment on a pull request; what a user wrote is escaped."""
    c, verdict = regression.comparison, regression.verdict
    rows = [_cells(row) for row in c.differences]
    parts = [
        f"## Verifier regression: {verdict.outcome}\n",
        f"{_md(c.candidate)} against {_md(c.baseline)}: {c.n_prompts} prompts, {c.pool_size} candidates each.\n",
        _bullets(verdict.reasons),
        markdown_table(list(rows[0]), [[_md(cell) for cell in cells.values()] for cells in rows]),
        f"{_md(legend(c.differences))}\n",
        _bullets(facts(regression)),
    ]
    if worst := c.changed[: regression.gate.worst_picks]:
        heads = ["prompt", "task", "baseline's pick", "candidate's pick"]
        cells = [
            [_md(p.prompt), p.tag, *(f"candidate {i}: {said}" for i, _, said in _sides(p))] for p in worst
        ]
        parts.append(markdown_table(heads, cells))
    if picture is not None:
        parts.append(f"![worst changed picks]({picture.name})\n")
    return "\n".join(parts)


def _bullets(lines: Iterable[str]) -> str:
    return "".join(f"- {_md(line)}\n" for line in lines)


def _md(text: str) -> str:
    """Escape text so that GitHub sees no markup, HTML or mention in it."""
    for old, new in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        ("\n", " "),
        ("|", "\\|"),
        ("`", "\\`"),
        ("@", "@&#8203;"),
    ):
        text = text.replace(old, new)
    return re.sub(r"([\[\]*_!])", r"\\\1", text)


def _sides(pick: ChangedPick) -> list[tuple[int, bool, str]]:
    """Return (index, whether it is right, that and its score) of the baseline's pick and of the candidate's."""
    sides = (
        (pick.baseline_index, pick.baseline_correct, pick.baseline_score),
        (pick.candidate_index, pick.candidate_correct, pick.candidate_score),
    )
    return [(i, right, f"{'right' if right else 'wrong'} ({score:+z.3f})") for i, right, score in sides]


def junit(regression: Regression) -> bytes:
    """Write JUnit XML: a case for each check of the gate, and one for the verdict.

    A case fails or is skipped (inconclusive) only if its check decides the verdict.
    """
    verdict, lines = regression.verdict, facts(regression)
    cases = []
    for check in verdict.checks:
        decides = check.outcome == verdict.outcome
        outcome = check.outcome if decides else PASS
        cases.append(_case(check.name, outcome, check.reasons, _output(check, lines)))
    cases.append(_case("verdict", verdict.outcome, verdict.reasons, ""))
    count = {tag: str(sum(case.find(tag) is not None for case in cases)) for tag in _ELEMENTS.values()}
    suite = ElementTree.Element(
        "testsuite", name="vhsbench regress", tests=str(len(cases)), errors="0",
        failures=count["failure"], skipped=count["skipped"],
    )  # fmt: skip
    suite.extend(cases)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _case(name: str, outcome: Outcome, reasons: Sequence[str], output: str) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname="vhsbench.regress", name=_xml(name))
    if outcome in _ELEMENTS:
        ElementTree.SubElement(case, _ELEMENTS[outcome], message=_xml(" ".join(reasons)))
    if output:
        ElementTree.SubElement(case, "system-out").text = _xml(output)
    return case


def _output(check: Check, facts: Sequence[str]) -> str:
    match check.values:
        case Difference() as row:
            return "; ".join(f"{name} {cell}" for name, cell in _cells(row).items())
        case Separation() as auc:
            p = _number(auc.p_holm, ".4f")
            return f"{auc.baseline:.4f} -> {auc.candidate:.4f}, p (worse, Holm) {p}"
        case _:
            return "; ".join(facts)


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def picture(regression: Regression, file: Path) -> Path | None:
    """Draw the worst changed picks side by side, as PNG; None if none changed or the pool keeps no pictures."""
    worst = regression.comparison.changed[: regression.gate.worst_picks]
    pool = regression.pool
    if not worst or pool is None or "images" not in pool.manifest.keep:
        return None
    from vhsbench.harness.report import style  # loads matplotlib

    figure = style.SCREEN.figure(4.6, 2.4 * len(worst))
    axes = figure.subplots(len(worst), 2, squeeze=False)
    for pair, pick in zip(axes, worst, strict=True):
        for axis, name, (index, right, said) in zip(
            pair, ("baseline", "candidate"), _sides(pick), strict=True
        ):
            _panel(axis, pool.image(pick.row * pool.manifest.size + index), right)
            axis.set_xlabel(f"{name}: {said}", fontsize=8)
        pair[0].set_title(_wrapped(pick.prompt), fontsize=8, loc="left")
    write_output(file, style.drawn(figure, "png", dpi=150))
    return file


def _panel(axis: Any, image: Any, right: bool) -> None:
    axis.imshow(image, interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set(color=_COLORS[right], linewidth=3)


def _wrapped(text: str, width: int = 60) -> str:
    lines = textwrap.wrap(text, width)
    return "\n".join(lines[:2]) + ("..." if len(lines) > 2 else "")
