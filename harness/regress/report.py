"""A regression for people and machines: console, Markdown, JUnit XML, and a picture of changed picks."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.shown import markdown_table
from vhsbench.harness.regress.gate import FAIL, INCONCLUSIVE, PASS
from vhsbench.harness.stats.intervals import brackets, missed_share

if TYPE_CHECKING:
    from rich.console import Console

    from vhsbench.harness.regress.compare import ChangedPick, Difference
    from vhsbench.harness.regress.points import Point
    from vhsbench.harness.regress.run import Regression

_HEAD = ("task", "N", "prompts", "base", "new", "points", "95% interval", "p worse",
         "found", "lost/won", "p (McNemar)")  # fmt: skip
_NOT_ON_CONSOLE = ("prompts", "lost/won", "p (McNemar)")  # what 80 columns have no room for
LEGEND = (
    "Exact best-of-N accuracy in percent; p worse: one-sided, Holm; found: the loss that is detected with 80% "
    "power (<= of verifiers with nothing in common); lost/won: prompts whose pick turned wrong/right."
)
# what XML 1.0 has no way to write, even escaped
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _cells(row: Difference) -> list[str]:
    found = row.detectable if row.detectable is not None else row.detectable_independent
    sign = "" if row.detectable is not None else "<="
    return [
        row.tag, _ns(row.point), str(row.n_prompts), f"{row.baseline:.2f}", f"{row.candidate:.2f}",
        f"{row.difference:+.2f}", brackets(row.low, row.high, "+.2f").strip() or "-", _number(row.p_holm, "{:.4f}"),
        "-" if found is None else f"{sign}{found:.2f}", f"{row.lost}/{row.won}", f"{row.p_mcnemar:.4f}",
    ]  # fmt: skip


def _ns(point: Point) -> str:
    """As "4", or "550ms 4/2" of baseline and candidate."""
    same = point.n_baseline == point.n_candidate
    ns = str(point.n_baseline) if same else f"{point.n_baseline}/{point.n_candidate}"
    return f"{point.budget} {ns}".strip()


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else form.format(value)


def facts(regression: Regression) -> list[str]:
    """One line each: ranking, calibration, drift, changed picks, speed, memory."""
    c = regression.comparison
    overall = c.separation[0]
    picks = next(d for d in c.differences if d.is_overall and d.point == c.widest)
    lines = [
        f"AUC {_number(overall.baseline, '{:.4f}')} -> {_number(overall.candidate, '{:.4f}')} "
        f"(p worse, Holm {_number(overall.p_holm, '{:.4f}')})",
        f"calibration error (ECE) {_number(c.calibration[0].ece, '{:.4f}')} -> "
        f"{_number(c.calibration[1].ece, '{:.4f}')}",
        f"scores: KS {c.drift.ks:.4f}, Wasserstein {c.drift.wasserstein:.4f}, Spearman "
        f"{_number(c.drift.spearman, '{:.4f}')} (within prompts {_number(c.drift.spearman_within, '{:.4f}')})",
        f"{len(c.changed)} picks changed at {c.widest.shown}: {picks.lost} prompts lost, {picks.won} won (McNemar "
        f"p = {picks.p_mcnemar:.4f})" + ("; every score is the same" if c.identical else ""),
    ]
    missed = 100 * missed_share(c.n_prompts)
    if not c.identical and missed > regression.gate.margin_points:
        lines.append(
            f"rare losses: {c.n_prompts} prompts may hold none of a kind that is {missed:.1f}% of all prompts; the "
            f"margin is {regression.gate.margin_points:g} points"
        )
    if s := regression.speed:
        lines += [
            f"scoring {_number(s.baseline_ms, '{:.2f}')} -> {_number(s.candidate_ms, '{:.2f}')} ms a candidate on "
            f"{s.device}: ratio {_number(s.time_ratio, '{:.2f}')} [{_number(s.time_low, '{:.2f}')}, "
            f"{_number(s.time_high, '{:.2f}')}]"
            + (f"; {s.tainted} of {s.repeats} rounds left out: {s.taint}" if s.tainted else ""),
            f"memory {s.baseline_gb:.4f} -> {s.candidate_gb:.4f} GB: ratio {s.memory_ratio:.2f}",
        ]
    return lines


def show(regression: Regression, console: Console) -> None:
    """The console's report."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    c = regression.comparison
    console.print(f"{c.candidate} against {c.baseline}", markup=False)
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    shown = [i for i, name in enumerate(_HEAD) if name not in _NOT_ON_CONSOLE]
    for i in shown:
        table.add_column(_HEAD[i], justify="left" if i == 0 else "right", no_wrap=_HEAD[i] != "N")
    for row in c.differences:
        cells = _cells(row)
        table.add_row(*(escape(cells[i]) for i in shown))
    console.print(table)
    console.print(LEGEND, style="dim")
    for line in facts(regression):
        console.print(f"  {escape(line)}")
    color = {FAIL: "red", INCONCLUSIVE: "yellow"}.get(regression.verdict.outcome, "green")
    console.print(f"[bold {color}]{regression.verdict.outcome}[/]")
    for reason in regression.verdict.reasons:
        console.print(f"  {escape(reason)}")


def markdown(regression: Regression, picture: Path | None = None) -> str:
    """A summary for a pull request's comment; what a user wrote is escaped."""
    c, verdict = regression.comparison, regression.verdict
    lines = [
        f"## Verifier regression: {verdict.outcome}", "",
        f"{_md(c.candidate)} against {_md(c.baseline)}: {c.n_prompts} prompts, {c.pool_size} candidates each.", "",
        *(f"- {_md(reason)}" for reason in verdict.reasons), "",
        markdown_table(_HEAD, [list(map(_md, _cells(row))) for row in c.differences]),
        LEGEND, "",
        *(f"- {_md(line)}" for line in facts(regression)), "",
    ]  # fmt: skip
    if worst := c.changed[: regression.gate.worst_picks]:
        heads = ["prompt", "task", "baseline's pick", "candidate's pick"]
        lines.append(markdown_table(heads, [(_md(p.prompt), p.tag, _pick(p, 0), _pick(p, 1)) for p in worst]))
    if picture is not None:
        lines += [f"![worst changed picks]({picture.name})", ""]
    return "\n".join(lines)


def _md(text: str) -> str:
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


def _pick(pick: ChangedPick, side: int) -> str:
    index, right, score = (
        (pick.baseline_index, pick.baseline_correct, pick.baseline_score),
        (pick.candidate_index, pick.candidate_correct, pick.candidate_score),
    )[side]
    return f"candidate {index}: {'right' if right else 'wrong'} ({score:+.3f})"


def junit(regression: Regression) -> bytes:
    """JUnit XML: a case per accuracy (task and N) and AUC that is judged, one for cost, one for the verdict.

    The verdict's case fails with the outcome, and is skipped if that is inconclusive.
    """
    verdict, c = regression.verdict, regression.comparison
    cases: list[tuple[str, str, str, str]] = []  # name, state, message, output
    for row in c.differences:
        if row.p_holm is None:
            continue
        mine = [r for r in verdict.reasons if r.startswith(f"{row.tag} at {row.point.shown} ")]
        output = "; ".join(f"{k} {v}" for k, v in zip(_HEAD, _cells(row), strict=True))
        cases.append(
            (
                f"accuracy[{row.tag}-{row.budget or f'N={row.n}'}]",
                _state(verdict.outcome if mine else PASS, row.is_overall),
                " ".join(mine),
                output,
            )
        )
    for auc in c.separation:
        mine = [r for r in verdict.reasons if r.startswith(f"the AUC of {auc.tag} ")]
        output = f"{auc.baseline:.4f} -> {auc.candidate:.4f}, p (worse, Holm) {_number(auc.p_holm, '{:.4f}')}"
        cases.append((f"auc[{auc.tag}]", "failure" if mine else "", " ".join(mine), output))
    costs = [r for r in verdict.reasons if r.startswith(("the time ratio", "the memory ratio"))]
    cases.append(
        (
            "cost",
            _state(verdict.outcome if costs else PASS, True),
            " ".join(costs),
            "; ".join(facts(regression)),
        )
    )
    cases.append(("verdict", _state(verdict.outcome, True), " ".join(verdict.reasons), ""))
    suite = ElementTree.Element(
        "testsuite", name="vhsbench regress", tests=str(len(cases)), errors="0",
        failures=str(sum(s == "failure" for _, s, _, _ in cases)),
        skipped=str(sum(s == "skipped" for _, s, _, _ in cases)),
    )  # fmt: skip
    for name, state, message, output in cases:
        case = ElementTree.SubElement(suite, "testcase", classname="vhsbench.regress", name=_xml(name))
        if state:
            ElementTree.SubElement(case, state, message=_xml(message))
        if output:
            ElementTree.SubElement(case, "system-out").text = _xml(output)
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _state(outcome: str, may_skip: bool) -> str:
    if outcome == FAIL:
        return "failure"
    return "skipped" if outcome == INCONCLUSIVE and may_skip else ""


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def picture(regression: Regression, file: Path) -> Path | None:
    """The worst changed picks side by side, as PNG; None if none changed or the pool keeps no pictures."""
    worst = regression.comparison.changed[: regression.gate.worst_picks]
    pool = regression.pool
    if not worst or pool is None or "images" not in pool.manifest.keep:
        return None
    from vhsbench.harness.report import style

    figure = style.figure(4.6, 2.4 * len(worst))
    axes = figure.subplots(len(worst), 2, squeeze=False)
    for pair, pick in zip(axes, worst, strict=True):
        shown = (
            ("baseline", pick.baseline_index, pick.baseline_correct, pick.baseline_score),
            ("candidate", pick.candidate_index, pick.candidate_correct, pick.candidate_score),
        )
        for axis, (side, index, right, score) in zip(pair, shown, strict=True):
            _panel(axis, pool.image(pick.row * pool.manifest.size + index), right)
            axis.set_xlabel(f"{side}: {'right' if right else 'wrong'} ({score:+.3f})", fontsize=8)
        pair[0].set_title(_wrapped(pick.prompt), fontsize=8, loc="left")
    write_output(file, style.drawn(figure, "png", dpi=150))
    return file


def _panel(axis: object, image: object, right: bool) -> None:
    axis.imshow(image, interpolation="nearest")  # type: ignore[attr-defined]
    axis.set_xticks([])  # type: ignore[attr-defined]
    axis.set_yticks([])  # type: ignore[attr-defined]
    for spine in axis.spines.values():  # type: ignore[attr-defined]
        spine.set(color="#009E73" if right else "#D55E00", linewidth=3)


def _wrapped(text: str, width: int = 60) -> str:
    import textwrap

    lines: Sequence[str] = textwrap.wrap(text, width)
    return "\n".join(lines[:2]) + ("..." if len(lines) > 2 else "")
