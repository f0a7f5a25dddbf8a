"""Reports of runs whose verifiers have labels: each is found by its label, and compared by its kind."""

from __future__ import annotations

import pandas as pd
import pytest
from matplotlib.colors import to_hex

from vhsbench.harness.report import figures
from vhsbench.harness.report.build import build
from vhsbench.harness.report.comparisons import Saving
from vhsbench.harness.report.derived import derive
from vhsbench.harness.report.published import beside, headline_beside
from vhsbench.harness.report.side_by_side import side_by_side
from vhsbench.harness.store.tables import load_run

VERIFIERS = [{"name": "vhs"}, {"name": "mllm-clip"}, {"name": "vhs", "label": "vhs@9000"}]
SHOWN = ["VHS", "MLLM w/ CLIP", "vhs@9000"]


@pytest.fixture(scope="module")
def labelled(make_run, tmp_path_factory, undrawn):
    """The folder of a run with two VHS, and its report's summary."""
    run = make_run(tmp_path_factory.mktemp("labelled") / "run", verifiers=VERIFIERS)
    with undrawn():
        return run, build(run)


@pytest.fixture
def derived(labelled):
    return derive(load_run(labelled[0]))


def test_every_table_figure_and_the_page_tell_them_apart(labelled, read_data):
    run, summary = labelled
    for table in ("budgets", "auc", "costs", "latency", "area", "scoring", "headroom"):
        rows = pd.read_csv(run / "tables" / f"{table}.csv", keep_default_na=False)
        assert {"vhs", "mllm-clip", "vhs@9000"} <= set(rows["verifier"]), table
    for table in ("budgets", "scoring"):
        text = (run / "tables" / f"{table}.md").read_text()
        assert all(f"| {name} |" in text for name in SHOWN)
    for figure in ("accuracy_over_time", "accuracy_by_n", "score_distributions", "reliability", "gallery"):
        assert "vhs@9000" in set(pd.read_csv(run / "figures" / f"{figure}.csv")["verifier"])
    lines = {line["name"]: line for line in read_data(run / "report.html")["pipelines"]}
    assert set(lines) == set(SHOWN)
    assert len({line["color"] for line in lines.values()}) == 3
    assert len({line["symbol"] for line in lines.values()}) == 3
    assert "<dd>VHS, MLLM w/ CLIP, vhs@9000</dd>" in (run / "report.html").read_text()
    assert {row["verifier"] for row in summary["auc"]} == {"vhs", "mllm-clip", "vhs@9000"}
    assert {v for row in summary["verdict"] for v in row["winners"].split(", ")} <= {
        "none",
        *summary_labels(summary),
    }


def summary_labels(summary):
    return {row["verifier"] for row in summary["budgets"]}


def test_figures_and_page_have_the_same_colours(derived, labelled, read_data):
    points = pd.read_csv(labelled[0] / "figures" / "accuracy_over_time.csv")
    drawn = figures.accuracy_over_cost(points, "ms", "", looks=derived.looks).axes[0].lines
    lines = {line["name"]: line["color"] for line in read_data(labelled[0] / "report.html")["pipelines"]}
    assert {
        line.get_label(): to_hex(line.get_color()).upper() for line in drawn if line.get_marker() != "None"
    } == lines


def test_the_headline_compares_every_vhs_with_every_clip(derived):
    about = derived.headline.set_index("about")["measured"]
    assert len(about) == 8
    change = 100 * (19.5 / 64.5 - 1)
    assert about["time of a candidate"] == pytest.approx(change)
    assert about["time of a candidate, vhs@9000 against MLLM w/ CLIP"] == pytest.approx(change)
    assert derived.budgets == [140, 270, 400]  # T(2), T(4), T(6) of MLLM w/ CLIP


def test_a_label_alone_takes_the_place_of_its_kind(make_run, tmp_path):
    """A run whose verifiers all have labels has the paper's comparisons, and draws what its VHS saves."""
    entries = [{"name": "vhs", "label": "mine"}, {"name": "mllm-clip", "label": "theirs"}]
    drifting = [{"name": "nano"}, {"name": "nano", "label": "moved", "drift": 0.5}]
    found = derive(load_run(make_run(tmp_path / "run", verifiers=entries, generators=drifting)))
    assert found.budgets == [140, 270, 400]
    assert set(found.headline["key"]) == {
        "time_per_candidate",
        "tflop_per_candidate",
        "peak_vram",
        "overall_gain",
    }
    drift = next(table for table in found.tables if table.name == "drift").rows
    assert drift.loc[drift["verifier"] == "mine", "delta"].notna().all()
    assert drift.loc[drift["verifier"] == "theirs", "delta"].isna().all()
    fig = figures.teaser(
        pd.DataFrame({"verifier": ["mine"], "n": [1], "cost": [1.0], "accuracy": [50.0], "low": [0], "high": [99]}),
        Saving("mine", "theirs", 60.0, 10.0, 20.0, True), "nano", found.looks,
    )  # fmt: skip
    assert fig.axes[0].get_title() == "nano: mine takes 50% less time for 60.0%"


def test_published_rows_stand_below_every_verifier_of_their_kind(make_run, tmp_path, monkeypatch):
    from vhsbench import generators

    known = {name: generators.REGISTRY.target(name) for name in generators.REGISTRY.names()}
    monkeypatch.setattr(generators.REGISTRY, "_targets", known | {"sana-sprint": "not.to:be_loaded"})
    made = make_run(
        tmp_path / "run", generators=[{"name": "sana-sprint"}], verifiers=VERIFIERS, budgets_ms=[550, 1100]
    )
    found = derive(load_run(made))
    rows = beside(found.tables[0], found.names, found.config.kinds).rows
    at = rows[(rows["budget_ms"] == 550) & (rows["source"] == "published") & (rows["steps"] == 1)]
    assert at.loc[at["verifier"] == "vhs", "overall"].tolist() == [78.1, 78.1]
    measured = rows[rows["source"] == "measured here"]
    assert {"vhs", "vhs@9000"} <= set(measured["verifier"])
    headline = headline_beside(found.headline, found.names)
    assert headline.loc[headline["key"] == "time_per_candidate", "published"].tolist() == [-63.3, -63.3]


def test_costs_of_elsewhere_are_found_by_label_or_kind(make_run, tmp_path, labelled):
    here = make_run(
        tmp_path / "here", verifiers=[{"name": "vhs", "label": "a"}, {"name": "vhs", "label": "b"}]
    )
    one = make_run(
        tmp_path / "one", verifiers=[{"name": "vhs"}, {"name": "mllm-ae", "label": "b"}], device="faster"
    )
    found = derive(load_run(here), str(one))
    assert {v for _, _, v in found.models["wall_ms"]} == {"none", "a", "b"}
    assert set(found.run.costs["device"]) == {"faster"}
    assert set(found.costs["verifier"]) == {"", "a", "b"}
    stages = found.breakdown("nano", 1).set_index(["verifier", "stage"])["wall_ms"]
    assert stages["a", "head"] == stages["b", "head"] == 10
    two = derive(load_run(here), str(labelled[0]))  # of two VHS, neither stands for a or b
    assert two.unmeasured == [
        f"nano (1 steps) with {v}: {labelled[0]} has no time of it." for v in ("a", "b")
    ]


def test_runs_are_compared_by_label_else_by_kind(make_run, tmp_path):
    entries = [
        [{"name": "vhs", "label": "a"}, {"name": "mllm-clip"}],
        [{"name": "vhs", "label": "b"}, {"name": "mllm-ae"}],
    ]
    runs = [
        derive(load_run(make_run(tmp_path / str(i), verifiers=of_run))) for i, of_run in enumerate(entries)
    ]
    rows = side_by_side(runs, ["0", "1"]).rows
    other = rows[(rows["run"] == "1") & rows["best_of_n"].notna()].set_index("verifier")
    assert other.loc["b", "difference"].notna().all()
    assert set(other.loc["b", "paired"]) == {"same candidates"}
    assert other.loc["mllm-ae", "difference"].isna().all()
