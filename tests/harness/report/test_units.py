"""Budgets in other units than time: a table of each, with N by the cost model of that unit."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.report.combine import load_runs
from vhsbench.harness.report.derived import derive
from vhsbench.harness.report.tables import markdown, write
from vhsbench.harness.stats.curves import OVERALL
from vhsbench.harness.store.tables import load_run
from vhsbench.harness.sweep.dry_run import dry_run


@pytest.fixture
def run(make_run, tmp_path):
    """A made run whose candidates take a joule a ms, and whose whole runs take a GB a candidate with VHS alone."""
    budgets = ["100ms", "0.013TFLOP", "3.05GB", "140J"]
    path = make_run(tmp_path / "run", budgets=budgets, tolerance=0, gallery_prompts=0)
    costs = pd.read_parquet(path / "costs.parquet")
    costs["energy_j"] = costs["wall_ms"].where(costs["stage"] != "end_to_end")
    costs["peak_rss_gb"] = 1.0 + costs["n"] * (costs["verifier"] == "vhs")
    costs.to_parquet(path / "costs.parquet")
    info = json.loads((path / "run.json").read_text())
    info["digests"].pop("costs.parquet")
    (path / "run.json").write_text(json.dumps(info))
    return path


def test_each_unit_has_its_table(run, tmp_path):
    derived = derive(load_run(run))
    tables = {t.name: t for t in derived.tables}
    assert derived.budgets == [100]

    def ns(name):
        return tables[name].rows.set_index("verifier")["best_of_n"].to_dict()

    # a candidate: vhs 52 ms once and 19.5 each, mllm-ae 38 and 31.5, mllm-clip 8 and 64.5
    assert ns("budgets") == {"none": 1, "vhs": 2, "mllm-ae": 1, "mllm-clip": 1}
    # TFLOP are ms / 1e4, J are ms
    assert ns("budgets_tflop") == {"none": 1, "vhs": 4, "mllm-ae": 2, "mllm-clip": 1}
    assert ns("budgets_j") == {"none": 1, "vhs": 4, "mllm-ae": 3, "mllm-clip": 2}
    # memory of the others does not grow: the whole pool
    assert ns("budgets_gb") == {"none": 1, "vhs": 2, "mllm-ae": 8, "mllm-clip": 8}
    joule = tables["budgets_j"].rows.set_index("verifier")
    assert joule.loc["vhs", "budget_j"] == 140
    curve = derived.curves.set_index(["verifier", "tag", "n"])["accuracy"]
    assert joule.loc["vhs", OVERALL] == curve["vhs", OVERALL, 4]
    assert "| Budget (J) |" in markdown(tables["budgets_j"])
    assert "8+" in markdown(tables["budgets_gb"])
    write(tables["budgets_gb"], tmp_path / "budgets_gb")
    assert (tmp_path / "budgets_gb.tex").exists()


def test_what_has_no_numbers_in_a_unit_has_no_table_and_says_so(make_run, tmp_path):
    derived = derive(load_run(make_run(tmp_path / "run", budgets=["40J"], gallery_prompts=0)))
    assert "budgets_j" not in {t.name for t in derived.tables}
    assert any("no energy_j was measured" in reason for reason in derived.unmeasured)
    assert len(derived.budgets) == 3  # of time, by default


def test_two_spellings_of_the_same_budgets_combine(make_run, tmp_path):
    a = make_run(tmp_path / "a", budgets_ms=[550.0], gallery_prompts=0)
    b = make_run(tmp_path / "b", budgets=["0.55s"], seeds=[1], gallery_prompts=0)
    assert len(load_runs([a, b]).info["combined"]) == 2


def test_a_dry_run_counts_tflop():
    config = {"generators": [{"name": "nano"}], "verifiers": [{"name": "vhs"}]}
    found = dry_run(RunConfig.model_validate(config | {"budgets": ["550ms", "1TFLOP", "24GB"]}))
    ns = found["cells"][0]["n_by_budget"]
    assert found["budgets"] == ["550ms", "1TFLOP", "24GB"]
    assert (ns["550"], ns["24GB"]) == (None, None)  # nano's times were not published
    assert ns["1TFLOP"] > 4
