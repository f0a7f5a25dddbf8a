"""A verifier that gives scores of any size and no P(yes): ranked as others, without calibration and "no scoring"."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from vhsbench.harness.report import charts
from vhsbench.harness.report.build import build
from vhsbench.harness.report.derived import derive
from vhsbench.harness.report.figures import score_range
from vhsbench.harness.store.tables import load_run


@pytest.fixture(scope="module")
def some(make_run, tmp_path_factory, undrawn):
    """The report of a run in which one verifier of three gives no P(yes)."""
    run = make_run(tmp_path_factory.mktemp("some") / "run", silent=("mllm-clip",))
    with undrawn():
        return run, build(run)


@pytest.fixture(scope="module")
def none(make_run, tmp_path_factory, undrawn):
    """The report of a run whose only verifier gives none."""
    one = {"verifiers": [{"name": "vhs"}]}
    run = make_run(tmp_path_factory.mktemp("none") / "run", silent=("vhs",), **one)
    with undrawn():
        return run, build(run)


def names(file):
    return set(pd.read_csv(file)["verifier"])


def test_its_best_of_n_and_auc_are_as_if_it_had_p_yes(made, some, undrawn):
    run, summary = some
    with undrawn():
        told = build(made, out=run.parent / "told")
    for table in ("auc", "at_n", "budgets"):
        assert summary[table] == told[table], table


def test_it_has_no_calibration_no_verdicts_and_no_row_without_scoring(some):
    run, summary = some
    others = {"vhs", "mllm-ae"}
    assert names(run / "figures" / "reliability.csv") == others
    assert names(run / "figures" / "disagreements.csv") == others
    assert {row["verifier"] for row in summary["tables"]["scoring"]} == others
    assert names(run / "tables" / "scoring.csv") == others


def test_unknown_is_empty_wherever_it_is_written(some):
    run, _ = some
    rows = load_run(run).scores
    assert rows.loc[rows["verifier"] == "mllm-clip", ["p_yes", "p_no"]].isna().all(axis=None)
    written = [f for f in run.rglob("*") if f.suffix in (".csv", ".md", ".tex")]
    assert len(written) > 20
    assert [f.name for f in written if "nan" in f.read_text().lower().split()] == []


def test_every_score_is_drawn_on_an_axis_that_holds_it(some):
    run, _ = some
    fig = charts.score_histograms(derive(load_run(run)))
    assert {bar.name: bar.xaxis for bar in fig.data} == {"MLLM w/ AE": "x", "MLLM w/ CLIP": "x2", "VHS": "x"}
    for bar in fig.data:
        assert sum(bar.y) == pytest.approx(100, abs=0.05)
    assert 20 < min(fig.data[1].x) < max(fig.data[1].x) < 30
    drawn = pd.read_csv(run / "figures" / "score_distributions.csv")
    assert len(drawn) == 3 * 24 * 8


def test_where_no_verifier_has_p_yes_nothing_is_said_of_it(none):
    run, summary = none
    assert "scoring" not in summary["tables"]
    assert [f.name for f in (run / "figures").glob("reliability*")] == []
    assert [f.name for f in (run / "figures").glob("disagreements*")] == []
    assert (run / "figures" / "score_distributions.pdf").is_file()
    page = (run / "report.html").read_text()
    assert 'id="reliability"' not in page
    assert 'id="scores"' in page
    data = json.loads(page.partition('id="data">')[2].partition("</script>")[0])
    assert "reliability" not in data["figures"]
    assert "scores" in data["figures"]


@pytest.mark.parametrize(
    ("scores", "ends"),
    [((-0.2, 0.9), (-1, 1)), ((-1, 1), (-1, 1)), ((0.5, 31.5), (0.5, 31.5)), ((-7, -7), (-8, -6))],
)
def test_the_range_of_scores_is_the_papers_unless_they_lie_beyond(scores, ends):
    assert score_range(pd.Series(scores, dtype=float)) == ends


def test_the_density_of_any_range_has_the_area_of_all_candidates(some):
    from vhsbench.harness.report.figures import score_distributions

    scores = pd.read_csv(some[0] / "figures" / "score_distributions.csv")
    fig = score_distributions(scores, "")
    for column, (low, high) in enumerate([(-1, 1), (20, 30), (-1, 1)]):
        bars = fig.axes[3 + column]
        (line,) = bars.lines
        x, y = line.get_data()
        ends = score_range(scores.loc[scores["verifier"] == sorted(set(scores["verifier"]))[column], "score"])
        assert (x[0], x[-1]) == pytest.approx(ends)
        assert low <= x[0] < x[-1] <= high
        assert np.trapezoid(y, x) / ((ends[1] - ends[0]) / 40) == pytest.approx(100, rel=0.02)
