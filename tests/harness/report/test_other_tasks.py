"""A run of prompts whose tasks are not GenEval's: its tables, page and figure are of the tasks that it has."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhsbench.harness.common.tasks import TAGS, columns, in_order
from vhsbench.harness.report import figures
from vhsbench.harness.report.build import build
from vhsbench.harness.stats.curves import accuracy_curves
from vhsbench.harness.store.tables import load_run

TASKS = ("DALL-E", "Rare Words", "<b>Text")  # not in the order of the alphabet


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_run, undrawn):
    file = tmp_path_factory.mktemp("own") / "p.txt"
    file.write_text("a\n")
    suite = {"name": "drawbench", "path": str(file)}
    # 4 prompts of the first task and of the second, 1 of the third: the two overalls differ
    found = make_run(file.parent / "run", tasks=TASKS, prompts=9, suite=suite)
    with undrawn():
        build(found)
    return found


def test_tables_have_a_column_for_each_task_and_both_means(folder):
    run = load_run(folder)
    right = run.candidates["correct"].groupby([run.candidates["tag"], run.candidates["prompt_id"]]).mean()
    rows = pd.read_csv(folder / "tables" / "budgets.csv")
    one = rows[(rows["verifier"] == "none") & (rows["best_of_n"] == 1)].iloc[0]
    of_task = right.groupby(level=0).mean() * 100
    assert [c for c in rows if c in (*TAGS, *TASKS, "overall", "geneval_overall")] == [
        *TASKS,
        "overall",
        "geneval_overall",
    ]
    assert [one[t] for t in TASKS] == pytest.approx([of_task[t] for t in TASKS])
    assert one["overall"] == pytest.approx(100 * right.mean())
    assert one["geneval_overall"] == pytest.approx(of_task.mean())
    assert abs(one["overall"] - one["geneval_overall"]) > 0.1
    heads = (folder / "tables" / "budgets.md").read_text().splitlines()
    assert any("| DALL-E | Rare Words |" in line and "| Overall | Mean of tasks |" in line for line in heads)


def test_the_page_lets_choose_among_them_and_names_the_suite(folder, read_data):
    page = (folder / "report.html").read_text(encoding="utf-8")
    data = read_data(folder / "report.html")
    assert list(data["taskNames"]) == list(TASKS)
    assert '<option value="&lt;b&gt;Text">&lt;b&gt;Text</option>' in page
    assert "Mean of tasks %</th>" in page
    assert "GenEval overall" not in page
    assert "drawbench; its score: mean over prompts" in page


def test_the_figure_has_a_panel_for_each(folder):
    run = load_run(folder)
    curves = accuracy_curves(run.candidates, run.scores)
    fig = figures.accuracy_by_n(curves, "made")
    assert [axes.get_title() for axes in fig.axes] == [
        "DALL-E (4 prompts)", "Rare Words (4 prompts)", "<b>Text (1 prompts)",
    ]  # fmt: skip


@given(st.lists(st.sampled_from([*TAGS[:3], "b", "a"])))
def test_genevals_tasks_come_first_in_its_order_and_others_as_they_come(tags):
    found = in_order(tags)
    assert sorted(found) == sorted(set(tags))
    assert (
        [t for t in found if t in TAGS]
        == [t for t in TAGS if t in tags]
        == found[: len(set(tags) & set(TAGS))]
    )
    assert [t for t in found if t not in TAGS] == list(dict.fromkeys(t for t in tags if t not in TAGS))
    assert [t for t in columns(tags) if t in tags] == found
    assert set(columns(tags)) - set(found) <= set(TAGS)
