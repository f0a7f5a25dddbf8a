"""What N a budget affords a strategy, from a made run's stages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.cost.rounds import cell_name
from vhsbench.harness.strategies.plan import priced
from vhsbench.harness.strategies.registry import StrategyError, parse


@pytest.fixture
def run(monkeypatch, change_json, tmp_path):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[1] / "report"), *sys.path])
    from conftest import write_run

    folder = write_run(tmp_path / "run")
    needs = {"": None, "vhs": "hidden", "mllm-clip": "images", "mllm-ae": "latents"}
    change_json(
        folder / "run.json", cells={cell_name("nano", 1, v, ""): {"needs": n} for v, n in needs.items()}
    )
    return folder


def test_a_cascade_is_planned_from_stages(run):
    (found,) = priced(run, parse("cascade:vhs>mllm-clip,k=2"), 0.05)
    # encode 8; noise .5, head 10, score 9 for each of n; tail 14, decode 30, score 12 for two
    assert found.models["ms"].per_candidate == pytest.approx(19.5)
    assert found.models["ms"].fixed == pytest.approx(8 + 2 * 56)
    with pytest.raises(StrategyError, match="cannot run without k"):
        priced(run, parse("cascade:vhs>mllm-clip"), 0.05)


def test_a_refinement_is_planned_from_the_stages_of_both_pools(run, monkeypatch):
    from vhsbench.harness.strategies import plan

    costs, info = plan.load_costs(run)
    more = costs[(costs["verifier"] == "") & (costs["stage"] == "denoise")].assign(steps=4, wall_ms=88.0)
    monkeypatch.setattr(plan, "load_costs", lambda path: (pd.concat([costs, more]), info))
    (found,) = priced(run, parse("refine:vhs,steps=4"), 0.05)
    assert found.models["ms"].per_candidate == pytest.approx(19.5)
    assert found.models["ms"].fixed == pytest.approx(8 + 0.5 + 88 + 30)
    (unknown,) = priced(run, parse("refine:vhs,steps=2"), 0.05)
    assert unknown.models == {}


def test_the_command_line_plans_it(run):
    arguments = ["plan", "--budget", "300ms", "--costs", str(run), "--tolerance", "0", "--json"]
    result = CliRunner().invoke(app, [*arguments, "--strategy", "cascade:vhs>mllm-clip,k=2"])
    rows = {row["verifier"]: row for row in json.loads(result.stdout)["plan"]}
    assert rows["cascade:vhs>mllm-clip,k=2"]["n"] == 9  # (300 - 120) / 19.5
    assert rows["vhs"]["n"] == 12  # (300 - 52) / 19.5
    result = CliRunner().invoke(app, ["plan", "--budget", "300ms", "--strategy", "stop:vhs,tau=1"])
    assert "give --costs FOLDER" in str(result.exception)
