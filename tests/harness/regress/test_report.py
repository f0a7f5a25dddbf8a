"""What the gate checked, check by check, as JUnit XML and Markdown."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.regress.compare import compare
from vhsbench.harness.regress.gate import decide
from vhsbench.harness.regress.gate_config import GateConfig
from vhsbench.harness.regress.report import facts, junit, markdown, show
from vhsbench.harness.regress.run import Regression
from vhsbench.harness.regress.speed import Speed

GATE = GateConfig(best_of_n=(2, 4), permutations=399, auc_permutations=399, max_time_ratio=1.2)
SLOW = Speed("cpu", 1, 30, 10.0, 15.0, 1.5, 1.3, 1.7, 0.1, 0.1, 1.0)
UNSURE = replace(SLOW, candidate_ms=12.0, time_ratio=1.2, time_low=1.0, time_high=1.4)


@pytest.fixture
def regression(simulated):
    """(skills, speed) -> a regression of 36 prompts at N = 2 and 4, where time has a limit of 1.2."""

    def build(skills, speed=None):
        candidates, a, b = simulated(np.random.default_rng(4), 36, 6, skills)
        found = compare(candidates, a, b, GATE)
        return Regression(GATE, decide(found, GATE, speed), found, speed, {}, None)

    return build


def cases(regression):
    """{name: (state, message)} of the JUnit file, "" for a case that passes."""
    suite = ElementTree.fromstring(junit(regression))[0]
    found = {}
    for case in suite:
        states = [(e.tag, e.get("message")) for e in case if e.tag != "system-out"]
        found[case.get("name")] = states[0] if states else ("", "")
    assert int(suite.get("tests")) == len(found)
    for state, number in (("failure", "failures"), ("skipped", "skipped")):
        assert int(suite.get(number)) == sum(s == state for s, _ in found.values())
    return found


def test_every_check_is_a_case_of_its_own_name(regression):
    found = regression((1.0, 1.0), SLOW)
    names = [f"accuracy[{tag}-N={n}]" for tag in ("overall", *TAGS) for n in (2, 4)]
    names += [f"auc[{tag}]" for tag in ("overall", *TAGS)]
    assert [c.name for c in found.verdict.checks] == [*names, "cost"]
    assert list(cases(found)) == [*names, "cost", "verdict"]


def test_a_case_is_found_by_its_check_and_not_by_the_words_of_a_sentence(regression):
    found = regression((1.6, 0.0))
    assert found.verdict.outcome == "fail"
    failed = {c.name: " ".join(c.reasons) for c in found.verdict.checks if c.outcome == "fail"}
    assert "auc[overall]" in failed
    reworded = tuple(replace(c, reasons=tuple("nothing" for _ in c.reasons)) for c in found.verdict.checks)
    for checks, message in ((found.verdict.checks, None), (reworded, "nothing")):
        said = cases(replace(found, verdict=replace(found.verdict, checks=checks)))
        assert said.pop("verdict")[0] == "failure"
        assert {n for n, (state, _) in said.items() if state == "failure"} == set(failed)
        assert all(said[n][1] == (message or text) for n, text in failed.items())


def test_what_does_not_decide_the_verdict_passes(regression):
    """Where time fails, that too few prompts were seen is not the reason."""
    unsure = cases(regression((1.0, 1.0), UNSURE))
    assert unsure["cost"][0] == unsure["verdict"][0] == unsure["accuracy[overall-N=4]"][0] == "skipped"
    assert "1.20 [1.00, 1.40]" in unsure["cost"][1]
    assert unsure["accuracy[counting-N=4]"] == ("", "")
    slow = cases(regression((1.0, 1.0), SLOW))
    assert slow["cost"] == slow["verdict"] == ("failure", "the time ratio is 1.50, over the limit of 1.2.")
    assert {state for state, _ in slow.values()} == {"failure", ""}
    assert slow["accuracy[overall-N=4]"] == ("", "")


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("skills", [(1.0, 1.0), (1.6, 0.0), None], ids=["alike", "worse", "itself"])
def test_the_console_explains_every_column_and_mark_and_no_other(regression, simulated, width, skills):
    found = regression(skills or (1.0, 1.0), SLOW)
    if skills is None:
        candidates, a, _ = simulated(np.random.default_rng(4), 120, 6, (1.0, 1.0))
        found = replace(found, comparison=compare(candidates, a, a, GATE))
    console = Console(width=width, record=True, file=io.StringIO())
    show(found, console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    rule = next(i for i, line in enumerate(lines) if set(line.strip()) == {"\u2500"})
    end = next(i for i, line in enumerate(lines) if line.startswith("task: "))
    heads, rows, text = lines[rule - 1], lines[rule + 1 : end], " ".join(" ".join(lines[end:]).split())
    legend = text[: text.index("AUC ")]
    columns = [
        "task",
        "N",
        "prompts",
        "base",
        "new",
        "points",
        "95% interval",
        "p worse",
        "found",
        "lost/won",
        "p (McNemar)",
    ]
    shown = [head for head in columns if re.search(rf"(^| ){re.escape(head)}( |$)", heads)]
    assert [head for head in columns if re.search(rf"(^|; ){re.escape(head)}: ", legend)] == shown
    assert len(shown) == (11 if width == 120 else 8)
    assert "\u2026" not in "".join(rows)
    assert len(rows) == 2 * 8
    for mark, seen in (("<=", r"<=\d"), ("none", r"\bnone\b"), ("-", r" - ")):
        assert (f"; {mark}: " in legend) == any(re.search(seen, f"{row} ") for row in rows), mark


def test_outputs_hold_what_was_measured(regression):
    found = regression((1.6, 0.0), SLOW)
    suite = ElementTree.fromstring(junit(found))[0]
    said = {case.get("name"): case.findtext("system-out") for case in suite}
    row = next(d for d in found.comparison.differences if (d.tag, d.n) == ("counting", 4))
    assert f"base {row.baseline:.2f}; new {row.candidate:.2f}" in said["accuracy[counting-N=4]"]
    auc = found.comparison.separation[0]
    assert said["auc[overall]"].startswith(f"{auc.baseline:.4f} -> {auc.candidate:.4f}, p ")
    assert "scoring 10.00 -> 15.00 ms a candidate on cpu: ratio 1.50" in said["cost"]
    assert said["verdict"] is None


def test_the_summary_has_a_row_for_every_accuracy_and_the_worst_picks(regression):
    found = regression((1.6, 0.0))
    tables = [part.splitlines() for part in markdown(found).split("\n\n") if part.startswith("| ")]
    accuracies, picks = ([line.strip("| ").split(" | ") for line in table] for table in tables)
    assert accuracies[0][:5] == ["task", "N", "prompts", "base", "new"]
    assert accuracies[1] == ["---"] * 11
    first = found.comparison.differences[0]
    assert accuracies[2][:5] == ["overall", "2", "36", f"{first.baseline:.2f}", f"{first.candidate:.2f}"]
    assert len(accuracies) == 2 + 2 * 8
    worst = found.comparison.changed[0]
    assert picks[2] == [
        worst.prompt, worst.tag, f"candidate {worst.baseline_index}: right ({worst.baseline_score:+.3f})",
        f"candidate {worst.candidate_index}: wrong ({worst.candidate_score:+.3f})",
    ]  # fmt: skip
    assert len(picks) == 2 + GATE.worst_picks


def test_calibration_is_told_of_verifiers_with_probabilities_alone(simulated):
    candidates, a, b = simulated(np.random.default_rng(4), 36, 6, (1.0, 1.0))

    def told(*sides):
        found = compare(candidates, *sides, GATE)
        regression = Regression(GATE, decide(found, GATE, None), found, None, {}, None)
        lines = [line for line in facts(regression) if "calibration" in line]
        return lines, regression.as_dict()["comparison"]["calibration"]

    silent_a, silent_b = (
        replace(s, p_yes=s.p_yes * np.nan, p_no=s.p_no * np.nan, score=9 * s.score) for s in (a, b)
    )
    lines, kept = told(silent_a, silent_b)
    assert lines == []
    assert kept == [{"ece": None, "curve": []}] * 2
    (line,), (_, known) = told(silent_a, b)
    assert line == f"calibration error (ECE) - -> {known['ece']:.4f}"


def test_no_table_shows_an_impossible_loss_and_an_idle_margin_is_named(simulated):
    gate = GateConfig(best_of_n=(1, 4), permutations=399, auc_permutations=199, margin_points=70)
    candidates, a, b = simulated(np.random.default_rng(4), 12, 6, (1.6, 0.4))
    found = compare(candidates, a, b, gate)
    regression = Regression(gate, decide(found, gate), found, None, {}, None)
    table = [line.strip("| ").split(" | ") for line in markdown(regression).splitlines() if line[:2] == "| "]
    heads, *rows = (cells for cells in table if len(cells) == 11)
    cells = [row[heads.index("found")] for row in rows[1:]]
    assert cells[2:14] == ["none"] * 12  # of tasks of two prompts
    assert cells[14:] == ["-", "-"]  # GenEval's overall is not tested
    low = found.differences[0]
    assert low.baseline < 70 < found.differences[1].baseline
    (said,) = [line for line in facts(regression) if line.startswith("no limit")]
    assert said == f"no limit: the margin is 70 points, the baseline's accuracy {low.baseline:.2f} at N = 1"
