from __future__ import annotations

import math

import pandas as pd

from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.report.comparisons import AccuracyTable, main_comparison
from vhsbench.harness.report.tables import html, latex_escape, places, write


def budgets() -> pd.DataFrame:
    def row(budget, verifier, n, value):
        tags = [*TAGS, "overall", "geneval_overall"]
        values = {k: value for t in tags for k in (t, f"{t}_low", f"{t}_high")}
        return {"budget_ms": budget, "generator": "a_b", "steps": 1, "verifier": verifier,
                "best_of_n": n, "time_ms": 10.0, "pool_limited": n == 16} | values  # fmt: skip

    frame = pd.DataFrame(
        [row(50, "vhs", 4, 80.04), row(50, "mllm-clip", 2, 79.0), row(50, "mllm-ae", None, math.nan),
         row(99, "vhs", 16, 70.0), row(99, "mllm-clip", 4, 70.0), row(99, "mllm-ae", 7, 60.0)]
    )  # fmt: skip
    frame["best_of_n"] = frame["best_of_n"].astype("Int64")
    return frame


def test_places_follow_what_is_printed():
    assert places(pd.Series([80.04, 79.96, 79.0, math.nan])) == {0: 1, 1: 1, 2: 2}
    assert places(pd.Series([math.nan])) == {}


def test_best_is_bold_second_underlined_per_budget_and_unknown_is_empty(tmp_path):
    write(main_comparison(budgets()), tmp_path / "budgets")
    lines = (tmp_path / "budgets.md").read_text().splitlines()[2:]
    assert "**80.0**" in lines[0]
    assert "<u>79.0</u>" in lines[1]
    assert "nan" not in lines[2].lower()
    assert "0.0" not in lines[2].split("MLLM w/ AE")[1].replace("10", "")
    assert "**70.0**" in lines[3]
    assert "**70.0**" in lines[4]
    assert "<u>60.0</u>" in lines[5]
    assert "| 16+ |" in lines[3]
    read = pd.read_csv(tmp_path / "budgets.csv")
    assert read["best_of_n"].isna().tolist() == [False, False, True, False, False, False]


def test_latex_is_escaped_booktabs(tmp_path):
    write(main_comparison(budgets()), tmp_path / "budgets")
    text = (tmp_path / "budgets.tex").read_text()
    assert r"a\_b" in text
    assert r"\textbf{80.0}" in text
    assert r"\toprule" in text
    assert latex_escape("50% & {x}_1\\") == r"50\% \& \{x\}\_1\textbackslash{}"


def test_any_table(tmp_path):
    write(pd.DataFrame({"a|b": ["x|y"], "n": [1.23456]}), tmp_path / "t")
    assert r"x\|y" in (tmp_path / "t.md").read_text()
    assert "1.235" in (tmp_path / "t.tex").read_text()


def test_html_is_escaped():
    frame = budgets().assign(generator="<script>alert(1)</script>")
    text = html(main_comparison(frame))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text
    assert "<strong>80.0</strong>" in text
    assert "<u>79.0</u>" in text


def test_markdown_passes_no_html_and_no_cell_border(tmp_path):
    write(pd.DataFrame({"a": ["<b>|"]}), tmp_path / "t")
    assert "&lt;b&gt;\\|" in (tmp_path / "t.md").read_text()
    assert "&lt;b&gt;|" in (tmp_path / "t.html").read_text()


def test_a_rule_where_a_budget_begins(tmp_path):
    write(main_comparison(budgets()), tmp_path / "t")
    text = (tmp_path / "t.tex").read_text()
    assert text.count("\\midrule") == 2
    assert (tmp_path / "t.html").read_text().count("class=start") == 1


def test_the_only_row_of_a_group_is_not_marked(tmp_path):
    table = main_comparison(budgets().head(1))
    assert isinstance(table, AccuracyTable)
    assert "<strong>" not in html(table)
