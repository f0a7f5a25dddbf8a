from __future__ import annotations

import pytest

from vhsbench.harness.report.derived import derive
from vhsbench.harness.report.published import (
    DIFFERENCE,
    MEASURED,
    PUBLISHED,
    beside,
    headline_beside,
)
from vhsbench.harness.report.tables import html
from vhsbench.harness.stats.curves import OVERALL
from vhsbench.harness.store.tables import load_run


@pytest.fixture
def full_size(make_run, tmp_path, monkeypatch):
    """A made run that says it is of SANA-Sprint, at the paper's budgets."""
    from vhsbench import generators

    known = {name: generators.REGISTRY.target(name) for name in generators.REGISTRY.names()}
    monkeypatch.setattr(generators.REGISTRY, "_targets", known | {"sana-sprint": "not.to:be_loaded"})
    entries = [{"name": "sana-sprint", "drift": 0}, {"name": "sana-sprint", "label": "moved", "drift": 0.5}]
    return derive(load_run(make_run(tmp_path / "run", generators=entries, budgets_ms=[550, 1100])))


def test_each_measured_row_meets_its_published_one(full_size):
    table = beside(full_size.tables[0], full_size.names, full_size.config.kinds)
    rows = table.rows
    at = rows[(rows["budget_ms"] == 550) & (rows["verifier"] == "vhs") & (rows["steps"] == 1)]
    assert at["source"].tolist() == [MEASURED, PUBLISHED, DIFFERENCE]
    measured, printed, difference = at[OVERALL]
    assert printed == 78.1
    assert difference == pytest.approx(measured - printed)
    assert at["best_of_n"].tolist()[1] == 4
    alone = rows[(rows["source"] == PUBLISHED) & (rows["steps"] == 8)]
    assert alone[OVERALL].tolist() == [74.0]


def test_drift_is_matched_whatever_the_label(full_size):
    table = next(t for t in full_size.tables if t.name == "drift")
    rows = beside(table, full_size.names, full_size.config.kinds).rows
    at = rows[(rows["drift"] == 0.5) & (rows["verifier"] == "vhs") & (rows["budget_ms"] == 1100)]
    assert at["source"].tolist() == [MEASURED, PUBLISHED, DIFFERENCE]
    assert at[OVERALL].tolist()[1] == 79.1
    assert at["delta"].tolist()[1] == 1.8


def test_scoring_is_matched(full_size):
    table = next(t for t in full_size.tables if t.name == "scoring")
    rows = beside(table, full_size.names, full_size.config.kinds).rows
    at = rows[(rows["scoring"] == "none") & (rows["verifier"] == "mllm-ae") & (rows["budget_ms"] == 1100)]
    assert at[OVERALL].tolist()[1] == 72.2


def test_another_generator_has_no_difference(made):
    derived = derive(load_run(made))
    rows = beside(derived.tables[0], derived.names, derived.config.kinds).rows
    assert DIFFERENCE not in set(rows["source"])
    assert (rows["source"] == PUBLISHED).sum() == 16
    assert headline_beside(derived.headline, derived.names)["difference"].isna().all()


def test_every_row_says_what_it_is_and_differences_are_signed_and_unmarked(full_size):
    table = beside(full_size.tables[0], full_size.names, full_size.config.kinds)
    assert table.rows["source"].notna().all()
    rows = [line for line in html(table).splitlines() if "<td>difference</td>" in line]
    assert rows
    assert not any("<strong>" in line for line in rows)
    assert all("<td>+" in line or "<td>-" in line for line in rows)


def test_headline_difference(full_size):
    found = headline_beside(full_size.headline, full_size.names)
    row = found[(found["key"] == "time_per_candidate") & (found["generator"] == "sana-sprint")].iloc[0]
    assert row["published"] == -63.3
    assert row["difference"] == pytest.approx(row["measured"] + 63.3)
