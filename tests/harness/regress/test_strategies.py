"""Strategies in the gate: the same one with either side's verifier, at equal budgets."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.config.run import ConfigError
from vhsbench.harness.cost.rounds import cell_name
from vhsbench.harness.regress.gate_config import GateConfig, load_gate
from vhsbench.harness.regress.points import PointError
from vhsbench.harness.regress.run import regress
from vhsbench.harness.regress.scores import run_candidates, run_scores
from vhsbench.harness.regress.sources import SourceError, resolve
from vhsbench.harness.stats.cascade import cascade_accuracy
from vhsbench.harness.store.tables import load_run

FIXED, FREE = "cascade:vhs>mllm-clip,n=4,k=2", "cascade:vhs>mllm-clip"


def write(folder, verifiers):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(Path(__file__).parents[1] / "report"), *sys.path])
        from conftest import write_run
    return write_run(folder, verifiers=verifiers)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of two VHS, the second with other scores, and MLLM w/ CLIP."""
    judges = [{"name": "vhs"}, {"name": "vhs", "label": "vhs-new"}, {"name": "mllm-clip"}]
    folder = write(tmp_path_factory.mktemp("two") / "run", judges)
    needs = {"vhs": "hidden", "vhs-new": "hidden", "mllm-clip": "images"}
    info = json.loads((folder / "run.json").read_text())
    info["cells"] = {cell_name("nano", 1, v, ""): {"needs": n} for v, n in needs.items()}
    (folder / "run.json").write_text(json.dumps(info))
    return folder


def gate(made, *strategies, **changes):
    keys = {"best_of_n": (), "budgets": ("208ms",), "costs": str(made), "tolerance": 0.0, "permutations": 399}
    return GateConfig(**keys | {"strategies": strategies, "auc_permutations": 199} | changes)


@pytest.fixture(scope="module")
def found(made):
    sides = (resolve(f"{made}:vhs"), resolve(f"{made}:vhs-new"))
    return regress(*sides, None, gate(made, "best-of-n:vhs", FIXED, FREE))


def rows(regression, strategy):
    return [d for d in regression.comparison.differences if d.strategy == strategy]


def test_best_of_n_is_that_of_the_budget(found):
    """T(8) = 52 + 19.5 x 8 = 208 ms, the whole pool."""
    plain, same = rows(found, ""), rows(found, "best-of-n:vhs")
    assert [d.tag for d in plain] == [d.tag for d in same]
    for a, b in zip(plain, same, strict=True):
        assert (b.baseline, b.candidate) == pytest.approx((a.baseline, a.candidate))
        assert b.p == a.p
        assert (b.n, b.lost, b.won, b.p_mcnemar) == (8, None, None, None)


def test_a_cascade_has_each_sides_own_verifier(made, found):
    run = load_run(made)
    candidates = run_candidates(run)
    scores = {v: run_scores(run, v, v, candidates).score for v in ("vhs", "vhs-new", "mllm-clip")}
    one, other = (
        100 * cascade_accuracy(scores[v], scores["mllm-clip"], candidates.correct)[:, 3, 1].mean()
        for v in ("vhs", "vhs-new")
    )
    row = rows(found, FIXED)[0]
    assert (row.baseline, row.candidate) == pytest.approx((one, other))
    assert row.difference == pytest.approx(other - one)
    assert row.low < row.difference < row.high
    assert row.p <= row.p_holm
    assert row.settings == (FIXED, FIXED)
    assert row.where == f"{FIXED} at 208ms (N = 4)"
    assert f"accuracy[overall-{FIXED}-208ms]" in [check.name for check in found.verdict.checks]
    free = rows(found, FREE)[0]
    assert all(setting.startswith(f"{FREE},n=") for setting in free.settings)
    assert (free.baseline, free.candidate) != (row.baseline, row.candidate)


def test_a_mean_budget_lets_a_stop_rule_draw_more(made):
    sides = (resolve(f"{made}:vhs"), resolve(f"{made}:vhs-new"))
    worth = [
        rows(regress(*sides, None, gate(made, "stop:vhs", budgets=("110ms",), meaning=m)), "stop:vhs")[0]
        for m in ("hard", "mean")
    ]
    assert worth[0].n == 2  # 52 + 19.5 x 2
    assert worth[1].n > 2
    assert worth[1].baseline > worth[0].baseline


def test_against_itself_it_passes_with_exactly_zero(made, tmp_path):
    file = tmp_path / "gate.yaml"
    file.write_text(
        f"best_of_n: []\nbudgets: [208ms]\ncosts: {made}\nstrategies: ['{FREE}']\npermutations: 99\nauc_permutations: 99\n"
    )
    arguments = ["regress", f"{made}:vhs", f"{made}:vhs", "--config", str(file), "--out", str(tmp_path)]
    said = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert said.exit_code == 0, said.output
    read = json.loads((tmp_path / "regression.json").read_text())["comparison"]["differences"]
    mine = [d for d in read if d["strategy"]]
    assert len(mine) == len(read) / 2
    assert {(d["difference"], d["low"], d["high"]) for d in mine} == {(0.0, 0.0, 0.0)}
    summary = (tmp_path / "summary.md").read_text()
    assert "| overall | cascade:vhs&gt;mllm-clip 208ms" in summary.replace(">", "&gt;")
    assert "mostly cascade:vhs" in summary
    history = CliRunner().invoke(app, ["history", str(tmp_path), "--json"])
    assert f"{FREE} 208ms N=" in history.stdout


@pytest.mark.parametrize(
    ("strategies", "changes", "error", "said"),
    [
        (["best-of-n:mllm-clip"], {}, PointError, "must name the one verifier that both sides are, but the baseline is 'vhs'"),
        ([FREE], {"budgets": ("60ms",), "best_of_n": (2,)}, PointError, "60ms"),
        (["cascade:mllm-ae>vhs"], {}, PointError, "lack a verifier of 'cascade:mllm-ae>vhs' on 'nano'"),
        (["cascade:vhs>mllm-clip,n=9,k=2"], {}, Exception, "fits no pool of 8 candidates"),
        ([f"{FREE},k=2,n=4"], {"budgets": ("150ms",)}, PointError, "150ms affords no 'cascade:vhs>mllm-clip,k=2,n=4'"),
    ],
)  # fmt: skip
def test_a_strategy_that_cannot_be_compared(made, strategies, changes, error, said):
    sides = (resolve(f"{made}:vhs"), resolve(f"{made}:vhs-new"))
    with pytest.raises(error, match=said):
        regress(*sides, None, gate(made, *strategies, **changes))


def test_the_baselines_run_has_the_other_verifiers(made, tmp_path):
    alone = write(tmp_path / "run", [{"name": "vhs"}])
    sides = (resolve(str(alone)), resolve(f"{made}:vhs-new"))
    with pytest.raises(
        SourceError, match="has no verifier 'mllm-clip', which a strategy of the gate asks for"
    ):
        regress(*sides, None, gate(made, FREE))


def test_in_the_file(made, tmp_path):
    file = tmp_path / "gate.yaml"
    for text, said in (
        (f"strategies: ['{FREE}']\n", "strategies need 'budgets'"),
        (f"strategies: ['{FREE}']\nbudgets: [550ms]\ncosts: a100-paper\n", "'costs' that are a finished run"),
        ("strategies: ['cascade:vhs']\n", "names no 2 verifier"),
        ("meaning: median\n", "'hard' or 'mean'"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError) as error:
            load_gate(file)
        assert said in str(error.value)


def test_the_others_of_a_frozen_pool_are_scored_there(pool, made):
    """Checkpoints on a pool: MLLM w/ CLIP scores it once for both sides."""
    found = regress(
        resolve("vhs"), resolve("vhs"), pool, gate(made, FREE, budgets=("130ms",), timing_repeats=0)
    )
    row = rows(found, FREE)[0]
    assert (row.difference, row.low, row.high) == (0.0, 0.0, 0.0)
    assert np.isfinite(row.baseline)
    assert row.n <= 6
