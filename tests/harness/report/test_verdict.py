"""Verdicts: who wins at a budget, all pairs compared as the gate compares two; and what accuracy costs."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from vhsbench.harness.cli import app
from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.cost.rounds import cell_name
from vhsbench.harness.regress.compare import compare
from vhsbench.harness.regress.gate_config import GateConfig
from vhsbench.harness.regress.points import OperatingPoint
from vhsbench.harness.regress.scores import LabeledCandidates, VerifierScores
from vhsbench.harness.report.build import build
from vhsbench.harness.report.derived import derive
from vhsbench.harness.report.scaling import area_over_log_time, headroom, time_to_accuracy
from vhsbench.harness.report.standings import sentence, standings
from vhsbench.harness.report.verdict import (
    Contender,
    Contest,
    Pair,
    Verdict,
    _more,
    compare_all,
    contenders,
    decide,
    widened,
)
from vhsbench.harness.stats.curves import accuracy_curves
from vhsbench.harness.store.tables import load_run

POOL = ("nano", 1)


@pytest.fixture(scope="module")
def run(make_run, tmp_path_factory):
    """Two seeds, so that what seeds add can be told from what prompts do."""
    return load_run(make_run(tmp_path_factory.mktemp("verdict") / "run", seeds=[0, 1]))


@pytest.fixture(scope="module")
def contest(run):
    return Contest(run, *POOL)


def pair(better, other, difference=1.0, beats=False, **changes):
    found = {
        "best_of_n": 4, "other_n": 2, "difference": difference, "low": 0.5, "high": 1.5, "p": 0.01,
        "p_holm": 0.02, "beats": beats, "more_prompts": None, "more_seeds": None,
    }  # fmt: skip
    return Pair(better=better, other=other, **found | changes)


def names(*verifiers):
    return [Contender(v, 1) for v in verifiers]


def test_pairs_agree_with_the_gate(contest, run):
    """Difference, interval and p of each pair are those of `vhsbench regress` at the same two N."""
    ns = {"vhs": 8, "mllm-clip": 3, "mllm-ae": 5}
    pairs = compare_all(contest, sorted(
        (Contender(v, n) for v, n in ns.items()), key=lambda c: -contest.mean(c.verifier)[c.n - 1]
    ))  # fmt: skip
    assert len(pairs) == 3
    grid, scores = contest.grid, run.scores.set_index("verifier")
    keys = run.candidates.drop_duplicates(["prompt_id", "seed"]).sort_values(["prompt_id", "seed"])
    ids, seeds = keys["prompt_id"].to_numpy(), keys["seed"].to_numpy()
    labeled = LabeledCandidates(run.prompts, ids, seeds, grid.correct.astype(bool))
    for found in pairs:
        sides = []
        for name in (found.better, found.other):
            mine = scores.loc[name].reset_index()
            values = [grid.of(mine.assign(score=mine[c])) for c in ("score", "p_yes", "p_no")]
            sides.append(VerifierScores(name, *values))
        points = [OperatingPoint(found.best_of_n, found.other_n)]
        gate = GateConfig(best_of_n=[1])
        whole = next(d for d in compare(labeled, *sides, gate, points).differences if d.is_overall)
        assert (found.difference, found.low, found.high) == pytest.approx(
            (-whole.difference, -whole.high, -whole.low)
        )
        assert found.p == pytest.approx(2 * whole.p)  # the gate's is one-sided: that the other is not worse


def test_the_same_scores_are_never_told_apart(contest):
    contest._scores["copy"], contest._expected["copy"] = contest.scores("vhs"), contest.expected("vhs")
    (found,) = compare_all(contest, [Contender("vhs", 4), Contender("copy", 4)])
    assert (found.difference, found.low, found.high, found.p, found.beats) == (0, 0, 0, 1, False)
    assert found.more_prompts is None  # no number of prompts shows a difference of zero


def test_nobody_is_asked_for_a_million_prompts():
    assert [_more(needed, 40) for needed in (None, 41, 20, 100_000, 100_001)] == [None, 1, 1, 99_960, None]


def test_an_n_that_is_uncertain_widens_the_difference(contest):
    alone = compare_all(contest, [Contender("vhs", 4), Contender("mllm-ae", 4)])[0]
    draws = np.array([1, 4, 4, 8] * 500)
    wider = compare_all(contest, [Contender("vhs", 4, draws), Contender("mllm-ae", 4)])[0]
    mean = 100 * contest.mean("vhs")
    assert (wider.difference, wider.p) == (alone.difference, alone.p)
    assert wider.difference - wider.low == pytest.approx(
        math.hypot(alone.difference - alone.low, mean[3] - mean[0])
    )
    # the same turns slow both: what they share takes nothing from the difference
    both = [Contender("vhs", 4, draws), Contender("mllm-ae", 4, draws)]
    shared = compare_all(contest, both)[0]
    assert shared.high - shared.low < wider.high - wider.low


def test_draws_beside_the_value_never_narrow():
    assert widened(5.0, 4.0, 6.0, np.full(10, 5.0)) == (4.0, 6.0)
    assert widened(5.0, 4.0, 6.0, np.full(10, 9.0)) == (4.0, pytest.approx(5 + math.hypot(1, 4)))


@pytest.mark.parametrize(
    ("pairs", "winners", "against", "prompts"),
    [
        ([pair("a", "b", beats=True), pair("a", "c", 3.0, True), pair("b", "c", 2.0)], ["a"], "b", None),
        ([pair("a", "b", more_prompts=40), pair("a", "c", 3.0, True), pair("b", "c", 2.0, True)], ["a", "b"], "b", 40),
        # b is not told from a, though c, behind b, is beaten by a alone
        ([pair("a", "b", more_prompts=40), pair("a", "c", 3.0, True), pair("b", "c", 2.0)], ["a", "b"], "b", 40),
        ([pair("a", "b", more_prompts=40), pair("a", "c", 3.0, more_prompts=9), pair("b", "c", 2.0)],
         ["a", "b", "c"], "b", 40),
        # what is unknown of one leaves the whole unknown
        ([pair("a", "b", 0.0), pair("a", "c", 3.0, more_prompts=9), pair("b", "c", 2.0)], ["a", "b", "c"], "b", None),
    ],
)  # fmt: skip
def test_the_winners_are_those_that_none_beats(pairs, winners, against, prompts):
    verdict = decide(names("a", "b", "c"), pairs)
    assert (verdict.winners, verdict.against.other, verdict.more_prompts) == (winners, against, prompts)
    assert verdict.decided == (len(winners) == 1)


def test_one_pipeline_or_none_at_a_budget():
    assert decide([], []) is None
    assert decide(names("a"), []) == Verdict(["a"], None, None, None)


def test_who_affords_nothing_takes_no_part(contest):
    rows = pd.DataFrame(
        {"verifier": ["none", "vhs", "mllm-clip"], "best_of_n": pd.array([1, None, 4], "Int64")}
    )
    draws = np.array([[10.0, 20.0]] * 3 + [[10.0, 200.0]])
    models = {"vhs": CostModel(1, 1), "mllm-clip": CostModel(10.0, 20.0, draws)}
    found = {c.verifier: c for c in contenders(contest, rows, models, 100.0, 0.05)}
    assert set(found) == {"none", "mllm-clip"}
    assert found["none"].draws is None
    assert list(found["mllm-clip"].draws) == [4, 4, 4, 1]  # at least one candidate, where a draw affords none


def test_words():
    row = {
        "overall": 84.42,
        "overall_low": 81.6,
        "overall_high": 86.5,
        "best_of_n": 8,
        "n_low": 7,
        "n_high": 9,
    }
    decided = Verdict(["vhs"], pair("vhs", "mllm-clip", 4.3, True, p_holm=0.0012), None, None)
    assert sentence(decided, row) == (
        "VHS wins (best of 8, 7 to 9): 84.4% [81.6, 86.5], 4.3 points [0.5, 1.5] ahead of MLLM w/ CLIP (p = 0.0012)."
    )
    alike = Verdict(["vhs", "mllm-ae"], pair("vhs", "mllm-ae", -0.01, p_holm=1), None, None)
    assert ", 0.0 points [0.5, 1.5] ahead of MLLM w/ AE" in sentence(alike, row)
    level = Verdict(["vhs", "mllm-ae", "mllm-clip"], pair("vhs", "mllm-ae", 0.5, p_holm=0.48), 1234, 1)
    assert sentence(level, row | {"n_low": pd.NA, "n_high": pd.NA}) == (
        "VHS, MLLM w/ AE and MLLM w/ CLIP cannot be told apart: VHS 84.4% [81.6, 86.5], 0.5 points [0.5, 1.5] ahead "
        "of MLLM w/ AE (p = 0.48). About 1,234 more prompts or 1 more seed would decide it, if that is the difference."
    )
    assert sentence(None, {}) == "no pipeline affords a candidate."


@pytest.fixture(scope="module")
def derived(make_run, tmp_path_factory):
    folder = make_run(
        tmp_path_factory.mktemp("budgets") / "run", budgets=["100ms", "200ms", "0.03TFLOP", "3GB", "1ms"]
    )
    return derive(load_run(folder))


def test_budgets_of_every_kind_have_a_verdict(derived):
    found = derived.standings
    assert [(r.budget, r.unit) for r in found.verdicts.itertuples()] == [
        (100, "ms"), (200, "ms"), (1, "ms"), (0.03, "TFLOP"), (3, "GB")]  # fmt: skip
    table = derived.budget_rows
    for row in found.verdicts[found.verdicts["unit"] == "ms"].itertuples():
        here = table[(table["budget_ms"] == row.budget) & table["best_of_n"].notna()]
        if row.budget == 1:
            assert row.winners == ""
            assert row.sentence == "1 ms: no pipeline affords a candidate."
        else:
            assert row.overall == here["overall"].max()
            assert (
                len(found.pairs[(found.pairs["budget"] == row.budget) & (found.pairs["unit"] == "ms")]) == 6
            )


def test_it_is_what_the_report_says_first(run, tmp_path, made, undrawn):
    with undrawn():
        summary = build(made, out=tmp_path)
    rows = pd.read_csv(tmp_path / "tables" / "verdict.csv")
    assert list(rows["sentence"]) == [v["sentence"] for v in summary["verdict"]]
    assert rows["winners"].notna().all()
    assert json.loads(json.dumps(summary["verdict"])) == summary["verdict"]
    for kind in ("md", "tex", "html"):
        assert "Winner" in (tmp_path / "tables" / f"verdict.{kind}").read_text(encoding="utf-8")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    main = page[page.index("<main") :]
    assert main.index('id="verdict"') < main.index('id="summary"')
    assert summary["verdict"][0]["sentence"].split(" [")[0] in main


def models_of(run, draws=None):
    return {"vhs": CostModel(40, 20, draws), "mllm-clip": CostModel(8, 65), "none": CostModel(0, 60)}


@settings(max_examples=25, deadline=None)
@given(st.floats(1, 100), st.floats(5, 50), st.floats(5, 50))
def test_the_area_is_the_mean_over_log_time(contest, fixed, first, second):
    models = {"vhs": CostModel(fixed, first), "mllm-clip": CostModel(0.0, second)}
    found = area_over_log_time(contest, models).set_index("verifier")
    start, end = max(m.predict(1) for m in models.values()), min(m.predict(8) for m in models.values())
    if start >= end:
        assert found.empty
        return
    times = np.exp(np.linspace(np.log(start), np.log(end), 20001))
    for verifier, model in models.items():
        n = np.minimum(8, np.floor((times - model.fixed) / model.per_candidate + 1e-9)).astype(int)
        assert found.loc[verifier, "area"] == pytest.approx(
            100 * contest.mean(verifier)[n - 1].mean(), abs=0.02
        )
        assert found.loc[verifier, "low"] <= found.loc[verifier, "area"] <= found.loc[verifier, "high"]


def test_behind_in_area_is_paired(contest):
    alike = {"vhs": CostModel(0, 10), "copy": CostModel(0, 10)}
    contest._scores["copy"], contest._expected["copy"] = contest.scores("vhs"), contest.expected("vhs")
    found = area_over_log_time(contest, alike)
    assert list(found["behind"].fillna(-1)) == [-1, 0]
    assert list(found.loc[1, ["behind_low", "behind_high", "p_holm"]]) == [0, 0, 1]
    # a time that is uncertain makes the area so
    draws = np.stack([np.zeros(400), np.tile([8.0, 12.0], 200)], 1)
    wider = area_over_log_time(contest, {"vhs": CostModel(0, 10, draws), "mllm-ae": CostModel(0, 10)})
    narrow = area_over_log_time(contest, {"vhs": CostModel(0, 10), "mllm-ae": CostModel(0, 10)})
    width = [f.set_index("verifier").loc["vhs", ["low", "high"]].diff().iloc[1] for f in (wider, narrow)]
    assert width[0] > width[1]


def test_no_area_where_no_time_is_shared(contest):
    assert area_over_log_time(contest, {"vhs": CostModel(0, 1), "mllm-clip": CostModel(100, 1)}).empty
    assert area_over_log_time(contest, {"none": CostModel(0, 1)}).empty


def test_time_to_an_accuracy():
    curve = pd.DataFrame({
        "verifier": "vhs", "tag": "overall", "n": [1, 2, 3], "accuracy": [62.0, 70.0, 76.0],
        "low": [55.0, 64.0, 71.0], "high": [68.0, 77.0, 82.0],
    })  # fmt: skip
    found = time_to_accuracy(curve, {"vhs": CostModel(10, 5)})
    assert list(found["accuracy"]) == [65, 70, 75]
    assert list(found["best_of_n"]) == [2, 2, 3]
    assert list(found["time_ms"]) == [20, 20, 25]
    assert list(found["time_low"]) == [15, 20, 20]
    assert list(found["time_high"].fillna(-1)) == [25, 25, -1]  # the lower limit never reaches 75%


def test_the_share_of_the_headroom(contest, run):
    # an oracle goes all of the way, a verifier with one score for all none of it
    contest._scores["oracle"] = contest.grid.correct.astype(float)
    contest._scores["blind"] = np.zeros(contest.grid.correct.shape)
    rows = pd.DataFrame({"verifier": ["oracle", "blind", "vhs", "none"], "best_of_n": [4, 4, 4, 1]})
    found = headroom(contest, rows).set_index("verifier")
    assert list(found.index) == ["oracle", "blind", "vhs"]
    assert found.loc["oracle", "headroom_percent"] == pytest.approx(100)
    assert found.loc["blind", "headroom_percent"] == pytest.approx(0, abs=1e-9)
    at = (
        accuracy_curves(run.candidates, run.scores)
        .query("tag == 'overall'")
        .set_index(["verifier", "n"])["accuracy"]
    )
    share = (at["vhs", 4] - at["random", 1]) / (at["oracle", 4] - at["random", 1])
    assert found.loc["vhs", "headroom_percent"] == pytest.approx(100 * share)
    assert found.loc["vhs", "low"] < 100 * share < found.loc["vhs", "high"]
    seeds = [
        accuracy_curves(*(f[f["seed"] == s] for f in (run.candidates, run.scores)))
        .query("tag == 'overall' and verifier == 'vhs' and n == 4")["accuracy"].item()
        for s in (0, 1)
    ]  # fmt: skip
    assert found.loc["vhs", "seeds_sd"] == pytest.approx(np.std(seeds, ddof=1))


def test_no_budget_no_verdict(contest):
    found = standings({POOL: contest}, {}, {}, 0.05)
    assert found.sentences == []
    assert len(found.pairs) == len(found.headroom) == 0


def test_each_pair_agrees_with_regress_on_the_command_line(make_run, change_json, tmp_path):
    """Three verifiers, one of them twice under two labels: what the verdict says of two, the gate says too."""
    verifiers = [
        {"name": "vhs"},
        {"name": "vhs", "label": "again"},
        {"name": "mllm-clip"},
        {"name": "mllm-ae"},
    ]
    folder = make_run(tmp_path / "run", verifiers=verifiers, budgets=["160ms"])
    needs = {"": None, "vhs": "hidden", "again": "hidden", "mllm-clip": "images", "mllm-ae": "latents"}
    cells = {cell_name("nano", 1, v, ""): {"needs": need} for v, need in needs.items()}
    change_json(folder / "run.json", cells=cells)
    gate = tmp_path / "gate.yaml"
    gate.write_text(f"budgets: [160ms]\nbest_of_n: []\ncosts: {folder}\n", encoding="utf-8")
    pairs = derive(load_run(folder)).standings.pairs
    pairs = pairs[pairs["other"] != "none"]
    assert len(pairs) == 6
    for pair in pairs.itertuples():
        sides = (f"{folder}:{pair.better}", f"{folder}:{pair.other}")
        result = CliRunner().invoke(app, ["regress", *sides, "--config", str(gate), "--json"])
        assert result.stdout, (result.exception, result.stderr)
        said = json.loads(result.stdout)["comparison"]["differences"]
        whole = next(d for d in said if d["tag"] == "overall")
        assert (whole["n"], whole["n_candidate"] or whole["n"]) == (pair.best_of_n, pair.other_n)
        assert (-whole["difference"], -whole["high"], -whole["low"]) == pytest.approx(
            (pair.difference, pair.low, pair.high)
        )
        assert 2 * whole["p"] == pytest.approx(pair.p)
