"""docs/performance.md and docs/strategies.md say what was measured, and files derived from others say what those do."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


@pytest.fixture
def pages(benchmark_script):
    return benchmark_script("measured_pages")


def test_the_pages_tables_are_those_of_the_files(pages):
    for page in pages.PAGES:
        text = page.read_text(encoding="utf-8")
        assert pages.renewed(text, ROOT, pages.TABLES) == text, page.name


def test_every_table_is_on_a_page(pages):
    text = "".join(page.read_text(encoding="utf-8") for page in pages.PAGES)
    assert all(f"<!-- {name}: results/" in text for name in pages.TABLES)


def test_a_cell_of_the_page_is_the_files_figure(pages):
    """Read off the files by eye: all verifiers, and the sweep's decoder."""
    rows = [line.split(" | ") for line in pages.fast(RESULTS / "performance").splitlines()]
    (ratio,) = (row for row in rows if row[0] == "| naive : `fast`")
    assert ratio[1:] == ["11.9", "15.1", "16.9", "12", "", "10.1", "10.2 |"]
    assert "| decode | 61.4 | 21.1 | 61.4 | 18.9 | 21% |" in pages.sweep(RESULTS / "performance")


def test_the_strategies_table_follows_from_the_times_of_all_turns(benchmark_script):
    strategies = benchmark_script("strategies")
    folder = RESULTS / "strategies/h200"
    times = pd.read_parquet(folder / "rows.parquet")
    costs = times.merge(pd.read_parquet(folder / "facts.parquet"), on=strategies.KEY)
    kept = pd.read_csv(folder / "strategies.csv")
    assert list(kept["strategy"]) == strategies.STRATEGIES
    found = pd.DataFrame(
        [strategies.result(t, strategies.parse(t).whole(), costs) for t in strategies.STRATEGIES]
    )
    pd.testing.assert_frame_equal(found[list(kept)], kept, rtol=1e-6, check_dtype=False)
    assert int((kept["off_percent"].abs() <= strategies.GOAL_PERCENT).sum()) == 18


@pytest.mark.parametrize(
    "file", sorted((RESULTS / "performance").glob("h200[bcd]-*.json")), ids=lambda f: f.stem
)
def test_the_history_has_the_line_of_every_run(benchmark_script, file):
    expected = benchmark_script("fast_history").line(json.loads(file.read_text()))
    history = pd.read_csv(RESULTS / "performance/history.csv").set_index("started")
    found = history.loc[expected.pop("started")]
    for name, value in expected.items():
        if value is None:
            assert pd.isna(found[name])
        else:
            assert found[name] == pytest.approx(value) if isinstance(value, float) else found[name] == value


def test_the_pages_figure_is_of_the_whole_history(benchmark_script):
    _, data = benchmark_script("fast_history").draw(pd.read_csv(RESULTS / "performance/history.csv"))
    drawn = pd.read_csv(ROOT / "docs/images/performance/fast.csv")
    pd.testing.assert_frame_equal(data.reset_index(drop=True), drawn, rtol=1e-6, check_dtype=False)
