"""Strategies of a finished run: budgets of both meanings, pairs, frontier, configuration and command line."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.config.run import parse as parse_config
from vhsbench.harness.config.yaml_files import ConfigError
from vhsbench.harness.report.derived import derive
from vhsbench.harness.report.strategies import sentences
from vhsbench.harness.stats.expected import expected_accuracy
from vhsbench.harness.store.tables import load_run

TEXTS = ["cascade:vhs>mllm-clip", "stop:vhs", "ensemble:vhs+mllm-ae", "cascade:vhs>mllm-clip,n=4,k=2"]


@pytest.fixture(scope="module")
def derived(make_run, tmp_path_factory):
    folder = make_run(
        tmp_path_factory.mktemp("rivals") / "run",
        strategies=TEXTS,
        budgets=["160ms", "300ms", "0.02TFLOP", "3GB"],
    )
    return derive(load_run(folder))


def test_every_strategy_stands_beside_best_of_n(derived):
    rows, _ = derived.strategies
    plain = {"best-of-n:vhs", "best-of-n:mllm-clip", "best-of-n:mllm-ae"}
    assert set(rows["strategy"]) == {*TEXTS, *plain}
    assert set(zip(rows["budget"], rows["unit"], strict=True)) == {
        (160, "ms"),
        (300, "ms"),
        (0.02, "TFLOP"),
    }  # no stage has GB
    assert set(rows["meaning"]) == {"hard", "mean"}


def test_best_of_n_is_that_of_the_budget_table(derived):
    rows, _ = derived.strategies
    for row in rows[rows["strategy"].str.startswith("best-of-n") & (rows["unit"] == "ms")].itertuples():
        table = derived.budget_rows
        here = table[
            (table["budget_ms"] == row.budget) & (table["verifier"] == row.strategy.split(":")[1])
        ].iloc[0]
        assert row.setting == f"{row.strategy},n={here['best_of_n']}"
        assert row.accuracy == pytest.approx(here["overall"])
        assert row.cost == pytest.approx(here["time_ms"])
        assert row.median_cost == row.p90_cost == row.worst_cost == pytest.approx(row.cost)


def test_one_setting_in_two_strategies_does_not_differ_from_itself(derived):
    """Keeping one candidate is best-of-N by the filter: the same sums, in another order."""
    rows, _ = derived.strategies
    setting = rows[rows["strategy"] == "best-of-n:vhs"].iloc[0]["setting"]
    kept = setting.replace("best-of-n:vhs", "cascade:vhs>mllm-clip") + ",k=1"
    _, pairs = derive(derived.run, strategies=[kept]).strategies
    both = pairs[
        (pairs["better"].isin([kept, "best-of-n:vhs"])) & (pairs["other"].isin([kept, "best-of-n:vhs"]))
    ]
    assert len(both) > 0
    assert (both.iloc[0][["difference", "low", "high"]] == 0).all()


def test_budgets_hold(derived):
    rows, _ = derived.strategies
    within = rows["budget"] * (1 + derived.config.tolerance) * (1 + 1e-9)
    hard = rows["meaning"] == "hard"
    assert (rows["worst_cost"][hard] <= within[hard]).all()
    stops = rows[rows["strategy"] == "stop:vhs"]
    assert (stops["median_cost"] <= stops["p90_cost"]).all()
    assert (
        stops.loc[stops["meaning"] == "mean", "worst_cost"] > within[stops.index[stops["meaning"] == "mean"]]
    ).any()


def test_pairs_are_paired_by_prompt(derived):
    rows, pairs = derived.strategies
    accuracy = rows.set_index(["budget", "unit", "meaning", "strategy"])["accuracy"]
    for pair in pairs.itertuples():
        key = (pair.budget, pair.unit, pair.meaning)
        assert pair.difference == pytest.approx(accuracy[(*key, pair.better)] - accuracy[(*key, pair.other)])
        assert pair.low <= pair.difference <= pair.high
        assert pair.p <= pair.p_holm
    beaten = pairs[pairs["beats"]].groupby(["budget", "unit", "meaning"])["other"].agg(set)
    for row in rows.itertuples():
        assert row.winner == (row.strategy not in beaten.get((row.budget, row.unit, row.meaning), set()))


def test_the_frontier_never_holds_more_than_it_may(derived):
    points = derived.rivals["nano", 1].frontier()
    one = points[points["strategy"] == "best-of-n:vhs"]
    assert one["n"].is_monotonic_increasing
    assert one["n"].max() == 8
    fixed = points[points["strategy"] == "cascade:vhs>mllm-clip,n=4,k=2"]
    assert set(fixed["setting"]) == {"cascade:vhs>mllm-clip,n=4,k=2"}
    assert fixed["budget"].min() >= derived.rivals["nano", 1].priced("ms")[-1].found.hard.min() * (1 - 1e-9)


DRAFTS = [{"name": "nano"}, {"name": "nano", "options": {"steps": 2}, "verifiers": []}]
REFINED = ["refine:vhs", "refine:mllm-clip,n=4,steps=2"]


@pytest.fixture(scope="module")
def refined(make_run, tmp_path_factory):
    folder = make_run(
        tmp_path_factory.mktemp("refined") / "run", generators=DRAFTS, strategies=REFINED, budgets=["350ms"]
    )
    return derive(load_run(folder))


def test_drafts_are_scored_and_what_is_made_again_is_judged(refined):
    rows, _ = refined.strategies
    assert set(rows["strategy"]) == {*REFINED, "best-of-n:vhs", "best-of-n:mllm-clip"}
    fixed = rows[(rows["strategy"] == REFINED[1]) & (rows["meaning"] == "hard")].iloc[0]
    drafts, again = refined.contests["nano", 1], refined.contests["nano", 2]
    right = expected_accuracy(drafts.scores("mllm-clip"), again.grid.correct)[:, 3]
    assert fixed["accuracy"] == pytest.approx(100 * right.mean())
    # encode 8, four drafts, and noise, denoising and decoding once more
    assert fixed["cost"] == pytest.approx(8 + 4 * (0.5 + 22 + 30 + 12) + 0.5 + 44 + 30)
    free = rows[(rows["strategy"] == REFINED[0]) & (rows["meaning"] == "hard")].iloc[0]
    assert free["setting"].endswith(",steps=2")
    assert free["worst_cost"] <= 350 * 1.05


def test_sentences_name_the_steps_of_pools_of_one_generator(refined):
    said = [*refined.standings.sentences, *refined.strategy_sentences]
    assert {line.partition(", 350 ms")[0] for line in said} == {"nano, 1 step", "nano, 2 steps"}


def test_best_of_n_costs_the_same_beside_refinements(refined):
    rows, table = refined.strategies[0], refined.budget_rows
    mine = rows[(rows["strategy"] == "best-of-n:vhs") & (rows["meaning"] == "hard")].iloc[0]
    other = table[(table["verifier"] == "vhs") & (table["steps"] == 1)].iloc[0]
    assert mine["cost"] == pytest.approx(other["time_ms"])


def test_a_run_without_a_second_pass_says_so(derived):
    other = derive(derived.run, strategies=["refine:vhs"]).rivals["nano", 1]
    assert "refine:vhs" not in [p.template.text for p in other.priced("ms")]
    assert "'refine:vhs' needs candidates that the run made again with more steps" in other.unpriced[0]
    for drafts, text in (
        (DRAFTS[:1], "refine:vhs"),
        (DRAFTS, "refine:vhs,steps=4"),
        ([DRAFTS[0], DRAFTS[1] | {"pool": 4}], "refine:vhs"),
    ):
        wrong = {"generators": drafts, "verifiers": [{"name": "vhs"}], "strategies": [text]}
        with pytest.raises(
            ValueError, match=f"strategy '{text}' needs a generator a second time, with more steps"
        ):
            RunConfig.model_validate(wrong)


def test_the_report_has_them(made, tmp_path, undrawn):
    with undrawn():
        result = CliRunner().invoke(
            app, ["report", str(made), "--out", str(tmp_path), "--strategy", TEXTS[0], "--json"]
        )
    assert result.exit_code == 0, result.output
    rows = pd.read_csv(tmp_path / "tables" / "strategies.csv")
    assert TEXTS[0] in set(rows["strategy"])
    points = pd.read_csv(tmp_path / "figures" / "strategies.csv")
    assert np.isfinite(points["accuracy"]).all()
    assert TEXTS[0].replace(">", "&gt;") in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_strategy_that_lacks_its_verifier(made, tmp_path):
    wrong = {"generators": [{"name": "nano"}], "verifiers": [{"name": "vhs"}], "strategies": [TEXTS[0]]}
    with pytest.raises(ValueError, match="asks for verifier 'mllm-clip', which the run lacks"):
        RunConfig.model_validate(wrong)
    with pytest.raises(ConfigError, match=r"my.yaml.*strategies.*has no parameter 'm'"):
        parse_config(
            "generators: [{name: nano}]\nverifiers: [{name: vhs}]\nstrategies: ['stop:vhs,m=3']\n", "my.yaml"
        )
    result = CliRunner().invoke(app, ["report", str(made), "--out", str(tmp_path), "--strategy", "stop"])
    assert result.exit_code != 0
    assert "Traceback" not in result.output


def test_words_say_whether_best_of_n_is_beaten():
    keys = {"budget": 76.0, "unit": "ms", "meaning": "mean"}
    rows = pd.DataFrame([
        keys | {"strategy": "stop:vhs", "setting": "stop:vhs,n=8,tau=0.5", "accuracy": 90.0},
        keys | {"strategy": "best-of-n:vhs", "setting": "best-of-n:vhs,n=3", "accuracy": 84.4},
        keys | {"meaning": "hard", "strategy": "best-of-n:vhs", "setting": "best-of-n:vhs,n=3", "accuracy": 84.4},
        keys | {"meaning": "hard", "strategy": "stop:vhs", "setting": "stop:vhs,n=3,tau=0.9", "accuracy": 84.3},
    ])  # fmt: skip
    pair = {
        "better": "stop:vhs",
        "other": "best-of-n:vhs",
        "difference": 5.6,
        "low": 4.1,
        "high": 7.0,
        "p": 0.0002,
        "p_holm": 0.01,
    }
    for beats, words in ((True, "ahead of"), (False, "ahead, not told apart, of")):
        pairs = pd.DataFrame([keys | pair | {"beats": beats}])
        assert sentences(rows, pairs) == [
            f"76 ms on average: stop:vhs,n=8,tau=0.5 90.0%, 5.6 points [4.1, 7.0] {words} best-of-n:vhs,n=3 (p = 0.01).",
            "76 ms for every prompt: no strategy is ahead of best-of-n:vhs,n=3 (84.4%).",
        ]
    cascade = {
        "meaning": "hard",
        "strategy": "cascade:vhs>mllm-clip",
        "setting": "cascade:vhs>mllm-clip,n=3,k=1",
    }
    alike = pd.DataFrame([keys | cascade | {"accuracy": 84.4 + 1e-12}, rows.iloc[2].to_dict()])
    assert sentences(alike, pairs) == [
        "76 ms for every prompt: no strategy is ahead of best-of-n:vhs,n=3 (84.4%)."
    ]
