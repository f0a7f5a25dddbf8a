"""A run's own tolerance decides every N that its report gives."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest

from vhsbench.harness.cost.plan import from_run, plan
from vhsbench.harness.regress.gate_config import GateConfig
from vhsbench.harness.regress.points import OperatingPoint, points
from vhsbench.harness.report.build import build
from vhsbench.harness.report.derived import derive
from vhsbench.harness.report.page import write_page
from vhsbench.harness.store.tables import load_run

# of the made runs: T(N) = 52 + 19.5 N ms with VHS, 8 + 64.5 N ms with MLLM w/ CLIP
N_AT_150_MS = {0.0: 5, 0.2: 6}


@pytest.fixture(scope="module", params=N_AT_150_MS)
def run(request, make_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tolerance") / "run"
    path = make_run(folder, tolerance=request.param, budgets_ms=[150.0], gallery_prompts=0, bootstrap=10)
    info = json.loads((path / "run.json").read_text())
    info["cells"] = {"nano_steps=1_vhs": {"needs": "hidden"}, "nano_steps=1_mllm-clip": {"needs": "images"}}
    (path / "run.json").write_text(json.dumps(info))
    return path, request.param


def test_tables_figures_and_page(run, tmp_path, undrawn):
    path, tolerance = run
    expected = N_AT_150_MS[tolerance]
    with undrawn():
        build(path, out=tmp_path)
    table = pd.read_csv(tmp_path / "tables" / "budgets.csv").set_index("verifier")
    assert table.loc["vhs", "best_of_n"] == expected
    figure = pd.read_csv(tmp_path / "figures" / "n_per_budget.csv").set_index(["verifier", "budget_ms"])
    assert figure.loc[("vhs", 150.0), "n"] == expected
    page = (tmp_path / "report.html").read_text()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert json.loads(data[1])["tolerance"] == tolerance
    assert f"within the budget and {100 * tolerance:g}% above it" in page


@pytest.mark.parametrize("tolerance", [0.0, 0.2, 0.005])
def test_default_budgets_give_clip_2_4_6(make_run, tmp_path, tolerance):
    path = make_run(tmp_path / "run", tolerance=tolerance, gallery_prompts=0, bootstrap=10)
    derived = derive(load_run(path))
    rows = derived.budget_rows
    assert rows.loc[rows["verifier"] == "mllm-clip", "best_of_n"].tolist() == [2, 4, 6]
    if tolerance == 0.005:
        write_page(derived, tmp_path / "report.html")
        assert "within the budget and 0.5% above it" in (tmp_path / "report.html").read_text()


def test_plan_and_gate_take_the_runs(run):
    path, tolerance = run
    rows = plan(from_run(path), ["150ms"])
    assert [r["n"] for r in rows if r["verifier"] == "vhs"] == [N_AT_150_MS[tolerance]]
    assert [r["n"] for r in plan(from_run(path), ["150ms"], 0.05) if r["verifier"] == "vhs"] == [5]
    gate = GateConfig(best_of_n=(), budgets=("150ms",), costs=str(path))
    assert points(gate, ("vhs", "mllm-clip"), "nano", 1) == [
        OperatingPoint(N_AT_150_MS[tolerance], 2, "150ms")
    ]
