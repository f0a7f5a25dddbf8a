"""N by budget in the gate: each kind of verifier gets what it can afford."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from vhsbench import verifiers
from vhsbench.harness.cli import app
from vhsbench.harness.config.run import ConfigError
from vhsbench.harness.cost.plan import PlanError
from vhsbench.harness.cost.roofline import DeviceError
from vhsbench.harness.cost.rounds import cell_name
from vhsbench.harness.regress.compare import ComparisonError, compare
from vhsbench.harness.regress.gate import decide
from vhsbench.harness.regress.gate_config import GateConfig, load_gate
from vhsbench.harness.regress.picks import changed_picks
from vhsbench.harness.regress.points import OperatingPoint, PointError, points
from vhsbench.harness.regress.report import _ns
from vhsbench.harness.regress.run import regress
from vhsbench.harness.regress.sources import resolve
from vhsbench.harness.store.tables import SCHEMAS, RunStore

PAPER = GateConfig(best_of_n=(4,), budgets=("550ms", "1.1 s", "1650 ms"), costs="a100-paper")
STAGES = {"vhs": {"encode": 2, "noise": 0, "head": 2, "score": 3, "tail": 4, "decode": 10},
          "mllm-clip": {"encode": 2, "noise": 0, "denoise": 6, "decode": 10, "score": 4}}  # fmt: skip


@pytest.fixture(scope="module")
def costs(tmp_path_factory):
    """A finished run of nano's costs: T(N) = 16 + 5 N ms with VHS, 2 + 20 N ms with CLIP."""
    folder = tmp_path_factory.mktemp("costs") / "run"
    empty = {f.name: "" if f.name in ("variant", "note") else None for f in SCHEMAS["costs"]}
    rows = [
        empty | {"generator": "nano", "steps": 1, "verifier": v, "stage": stage, "n": 1, "batch": 1, "repeat": 0,
                 "wall_ms": float(ms), "device": "test", "status": "ok"}
        for v, stages in STAGES.items() for stage, ms in stages.items()
    ]  # fmt: skip
    with RunStore(folder, {"name": "costs"}) as store:
        store.write_prompts([{"tag": "colors", "prompt": "p"}])
        store.write_shard("costs", "all", pd.DataFrame(rows))
        store.consolidate()
        cells = {
            cell_name("nano", 1, v, ""): {"needs": n} for v, n in (("vhs", "hidden"), ("mllm-clip", "images"))
        }
        store.update(status="complete", cells=cells)
    return folder


def test_published_costs_give_the_published_n():
    found = points(PAPER, ("vhs", "mllm-clip"), "sana-sprint", 1)
    assert [(p.n_baseline, p.n_candidate) for p in found] == [(4, 4), (4, 2), (9, 4), (15, 6)]
    assert [p.shown for p in found][:2] == ["N = 4", "550ms (N = 4 against 2)"]
    assert _ns(found[2]) == "1.1 s 9/4"
    same = points(PAPER, ("vhs", "vhs"), "sana-sprint", 1)
    assert [(p.n_baseline, p.n_candidate) for p in same[1:]] == [(4, 4), (9, 9), (15, 15)]


def test_a_runs_own_costs(costs):
    gate = GateConfig(best_of_n=(), budgets=("40ms",), costs=str(costs), tolerance=0.0)
    assert points(gate, ("mllm-clip", "vhs"), "nano", 1) == [OperatingPoint(1, 4, "40ms")]


@pytest.mark.parametrize(
    ("change", "kinds", "said"),
    [
        ({"budgets": ("10ms",)}, ("vhs", "vhs"), "10ms .*'vhs' no N: .* 21 ms"),
        ({"budgets": ("3TFLOP",)}, ("vhs", "vhs"), "3TFLOP .*'vhs' no N: FLOPs"),
        ({}, ("vhs", "mllm-ae"), r"'mllm-ae' on 'nano' \(1 steps\); .* mllm-clip, vhs\.$"),
        ({"costs": "runs/none"}, ("vhs", "vhs"), "'costs' .*'runs/none'"),
    ],
)  # fmt: skip
def test_a_budget_without_an_n_is_one_sentence(costs, change, kinds, said):
    gate = GateConfig(**{"budgets": ("40ms",), "costs": str(costs)} | change)
    with pytest.raises(PointError, match=said):
        points(gate, kinds, "nano", 1)


def test_devices_without_such_costs():
    with pytest.raises(PlanError, match="no timing of 'nano' was published"):
        points(PAPER, ("vhs", "vhs"), "nano", 1)
    with pytest.raises(DeviceError, match="a101-paper"):
        points(PAPER.model_copy(update={"costs": "a101-paper"}), ("vhs", "vhs"), "sana-sprint", 1)


def test_an_n_beyond_the_pool_is_refused_before_anything_is_scored(pool, monkeypatch):
    monkeypatch.setattr(verifiers, "create", lambda *_, **__: pytest.fail("a verifier was loaded"))
    with pytest.raises(ComparisonError, match=r"best of 7, .* 6 candidates"):
        regress(resolve("vhs"), resolve("mllm-ae"), pool, GateConfig(best_of_n=(2, 7)))


def test_in_the_file(tmp_path):
    file = tmp_path / "gate.yaml"
    file.write_text("best_of_n: []\nbudgets: [550ms, 3TFLOP]\ncosts: a100-paper\n")
    assert load_gate(file).budgets == ("550ms", "3TFLOP")
    for text, said in (
        ("margin_points: 1\nbudgets: [550]\ncosts: a100-paper\n", "line 2, key 'budgets.0'"),
        ("budgets: [550 hours]\ncosts: a100-paper\n", "'550 hours' is no budget"),
        ("budgets: [550ms]\n", "budgets need 'costs'"),
        ("best_of_n: []\n", "give best_of_n or budgets"),
        (
            "budgets: [1s]\ncosts: nowhere\n",
            "line 2, key 'costs': 'nowhere' is neither a finished run's folder nor a known device (a100, a100-paper, h100,",
        ),
        ("costs: a101-paper\n", "; did you mean 'a100-paper'?"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"gate\.yaml") as error:
            load_gate(file)
        assert said in str(error.value)
    for costs, read in (("h200", "h200"), ("runs/later", str(tmp_path / "runs/later"))):
        file.write_text(f"budgets: [550ms]\ncosts: {costs}\n")
        assert load_gate(file).costs == read


def test_each_side_is_compared_at_its_own_n(simulated):
    gate = GateConfig(best_of_n=(2,), bootstrap=200, permutations=399, auc_permutations=199)
    candidates, a, _ = simulated(np.random.default_rng(2), 120, 6, (1.0, 1.0))
    found = compare(
        candidates, a, a, gate, [OperatingPoint(2, 2), OperatingPoint(6, 1, "40ms"), OperatingPoint(6, 6)]
    )
    at = {d.point.shown: d for d in found.differences if d.is_overall}
    uneven = at["40ms (N = 6 against 1)"]
    assert at["N = 2"].difference == at["N = 6"].difference == 0.0
    assert uneven.baseline == at["N = 6"].baseline
    assert uneven.candidate == pytest.approx(100 * candidates.correct.mean())
    assert (uneven.lost, uneven.won) == (
        int((candidates.correct[np.arange(120), a.score.argmax(1)] & ~candidates.correct[:, 0]).sum()),
        int((~candidates.correct[np.arange(120), a.score.argmax(1)] & candidates.correct[:, 0]).sum()),
    )
    assert found.widest == OperatingPoint(6, 1, "40ms")
    assert len(found.changed) == (a.score.argmax(1) != 0).sum()
    assert decide(found, gate).outcome == "fail"
    assert any(
        r.startswith("overall at 40ms (N = 6 against 1) is worse") for r in decide(found, gate).reasons
    )
    assert changed_picks(candidates, a.score, a.score, OperatingPoint(3, 3)) == []
    with pytest.raises(ComparisonError, match=r"best of 9 \(40ms\), .* 6 candidates"):
        compare(candidates, a, a, gate, [OperatingPoint(9, 2, "40ms")])


def test_the_command_line(pool, costs, tmp_path):
    gate = tmp_path / "gate.yaml"
    gate.write_text(
        f"best_of_n: [2]\nbudgets: [40ms]\ntolerance: 0\ncosts: {costs}\n"
        "bootstrap: 200\npermutations: 999\nauc_permutations: 399\ntiming_repeats: 0\n"
    )
    arguments = ["regress", "mllm-clip", "vhs", "--pool", str(pool.path), "--config", str(gate)]
    said = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")])
    assert said.exit_code in (0, 1, 3), said.output
    assert "…" not in said.stdout
    found = json.loads((tmp_path / "out" / "regression.json").read_text())["comparison"]
    assert found["points"][1] == {"n_baseline": 1, "n_candidate": 4, "budget": "40ms"}
    assert "accuracy[overall-40ms]" in (tmp_path / "out" / "junit.xml").read_text()
    assert "| overall | 40ms 1/4 |" in (tmp_path / "out" / "summary.md").read_text()
    same = CliRunner().invoke(app, [*arguments[:2], *arguments[1:2], *arguments[3:], "--json"])
    assert same.exit_code == 0, same.output
    assert {d["difference"] for d in json.loads(same.stdout)["comparison"]["differences"]} == {0.0}
