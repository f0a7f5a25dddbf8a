"""Every strategy: what it picks, what it costs and how it runs say the same; and choosing is judged on other prompts."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vhsbench import generators, verifiers
from vhsbench.generators.protocol import GeneratorDefaults, GeneratorError
from vhsbench.harness.common.registry import RegistryError
from vhsbench.harness.cost.cost_model import CostError
from vhsbench.harness.cost.stage_costs import StageCosts
from vhsbench.harness.inference.best_of_n import best_of_n
from vhsbench.harness.strategies import run as running
from vhsbench.harness.strategies.base import Outcome, Pools, Strategy
from vhsbench.harness.strategies.best_of_n import BestOfN
from vhsbench.harness.strategies.cascade import Cascade
from vhsbench.harness.strategies.choose import Evaluated, choose, evaluate, folds
from vhsbench.harness.strategies.ensemble import Ensemble
from vhsbench.harness.strategies.path import calls, path
from vhsbench.harness.strategies.refine import Refine
from vhsbench.harness.strategies.registry import STRATEGIES, StrategyError, parse
from vhsbench.harness.strategies.run import run
from vhsbench.harness.strategies.stop import Stop
from vhsbench.verifiers.checks import check_values

NEEDS = {"vhs": "hidden", "mllm-ae": "latents", "mllm-clip": "images"}
EXAMPLES = [
    BestOfN(("vhs",), 6), Cascade(("vhs", "mllm-clip"), 6, 2), Cascade(("mllm-clip", "vhs"), 5, 3),
    Cascade(("vhs", "mllm-clip"), 4, 1), Stop(("vhs",), 6, 0.4), Ensemble(("vhs", "mllm-clip"), 5, 0.7),
    Refine(("vhs",), 5, 2),
]  # fmt: skip


def pools(rows=3, size=8, seed=0):
    rng = np.random.default_rng(seed)
    correct = rng.random((rows, size)) < 0.5
    scores = {v: rng.normal(size=(rows, size)) + 0.6 * correct for v in NEEDS}
    again = {steps: (correct | (rng.random((rows, size)) < 0.1 * steps)).astype(float) for steps in (2, 4)}
    return Pools(scores, correct, again)


class Table:
    """The candidates of one prompt with known scores, in the order that they are drawn."""

    def __init__(self, known, row, order):
        self.known, self.row, self.order, self.scored = known, row, order, {}

    def scores(self, verifier, candidates):
        self.scored.setdefault(verifier, set()).update(candidates)
        return [self.known.scores[verifier][self.row][self.order[i]] for i in candidates]


@pytest.mark.parametrize("strategy", EXAMPLES, ids=str)
def test_what_it_picks_is_what_it_is_expected_to(strategy):
    known, orders = pools(), 4000
    outcome = strategy.expected(known)
    rng = np.random.default_rng(1)
    for row in range(3):
        right, drawn = [], []
        for _ in range(orders):
            order = rng.permutation(8)
            table = Table(known, row, order)
            right.append(known.verdicts(strategy.again)[row][order[strategy.pick(table)]])
            scored = {v: len(table.scored.get(v, ())) for v in strategy.verifiers}
            drawn.append(max(scored.values()))
            assert scored == strategy.scored(drawn[-1])
        spread = np.sqrt(0.25 / orders)
        assert np.mean(right) == pytest.approx(outcome.accuracy[row], abs=4.5 * spread)
        if outcome.drawn is None:
            assert set(drawn) == {strategy.n}
        else:
            shares = np.bincount(drawn, minlength=strategy.n + 1)[1:] / orders
            assert shares == pytest.approx(outcome.drawn[row], abs=4.5 * spread)


@pytest.mark.parametrize("name", STRATEGIES.names())
def test_settings_are_all_there_is_to_choose(name):
    kind = STRATEGIES.get(name)
    two = kind.between != ""
    known = pools(size=5)
    found = kind.settings(("vhs", "mllm-clip") if two else ("vhs",), {}, known)
    assert len(set(found)) == len(found)
    assert {s.n for s in found} == {1, 2, 3, 4, 5}
    assert all(s.expected(known).accuracy.min() >= 0 and s.expected(known).accuracy.max() <= 1 for s in found)
    fixed = kind.settings(("vhs", "mllm-clip") if two else ("vhs",), {"n": 4}, known)
    assert set(fixed) == {s for s in found if s.n == 4}


def test_the_way_past_several_verifiers():
    assert [(leg.stage, leg.owner, leg.readers) for leg in path({"vhs": "hidden", "mllm-clip": "images"})] == [
        ("noise", "", ()), ("head", "vhs", ("vhs",)), ("tail", "vhs", ()), ("decode", "", ("mllm-clip",)),
    ]  # fmt: skip
    assert [(leg.stage, leg.owner) for leg in path({"early": "hidden", "late": "hidden", "mllm-ae": "latents"})] == [
        ("noise", ""), ("head", "early"), ("advance:early", "late"), ("tail", "late"), ("decode", ""),
    ]  # fmt: skip
    assert [leg.stage for leg in path({"mllm-ae": "latents"})] == ["noise", "denoise", "decode"]


def test_calls_of_a_cascade():
    needs = {"vhs": "hidden", "mllm-clip": "images"}
    by_stage = {
        stage if stage != "score" else f"score {owners[0]}": count
        for (owners, stage), count in calls(needs, {"vhs": 8, "mllm-clip": 2}).items()
    }
    assert by_stage == {
        "encode": 1, "noise": 8, "head": 8, "tail": 2, "decode": 2, "score vhs": 8, "score mllm-clip": 2,
    }  # fmt: skip
    # the winner alone is finished where the second verifier reads no further than the first
    alone = calls({"vhs": "hidden"}, {"vhs": 8})
    assert {stage: n for (_, stage), n in alone.items()} == {
        "encode": 1, "noise": 8, "head": 8, "tail": 1, "decode": 1, "score": 8,
    }  # fmt: skip


def test_calls_of_a_refinement():
    """No draft is finished; the winner is made again as a whole, of the text that was encoded for all."""
    for needs, mine in (
        ({"vhs": "hidden"}, {"head": 8, "tail": 0, "decode": 1}),
        ({"mllm-ae": "latents"}, {"denoise": 8, "decode": 1}),
        ({"mllm-clip": "images"}, {"denoise": 8, "decode": 9}),
    ):
        found = calls(needs, dict.fromkeys(needs, 8), again=2)
        assert {stage: n for (_, stage), n in found.items()} == {
            "encode": 1, "noise": 9, "denoise:2": 1, "score": 8,
        } | mine  # fmt: skip


@given(st.integers(0, 10**6), st.integers(1, 5))
@settings(max_examples=40)
def test_what_is_made_again_is_expected_exactly(seed, n):
    """Every draw of n drafts in exact fractions; of equal scores each is picked as often."""
    rng = np.random.default_rng(seed)
    scores, again = rng.integers(0, 4, (1, 5)).astype(float), rng.integers(0, 2, (1, 5))
    known = Pools({"vhs": scores}, rng.integers(0, 2, (1, 5)).astype(float), {3: again.astype(float)})
    total = Fraction(0)
    draws = list(combinations(range(5), n))
    for draw in draws:
        top = [i for i in draw if scores[0, i] == max(scores[0, list(draw)])]
        total += Fraction(sum(int(again[0, i]) for i in top), len(top))
    assert Refine(("vhs",), n, 3).expected(known).accuracy[0] == pytest.approx(float(total / len(draws)))


def rows_of(stages, verifier=""):
    return [
        {"verifier": verifier, "stage": stage, "wall_ms": ms, "tflop": ms / 1000, "visit": None, "batch": 1,
         "variant": "", "n": 1, "status": "ok", "note": ""}
        for stage, ms in stages.items()
    ]  # fmt: skip


@pytest.fixture
def costs():
    shared = {"encode": 8, "noise": 1, "denoise": 30, "decode": 40}
    return pd.DataFrame(
        rows_of(shared)
        + rows_of({"head": 20, "tail": 12, "score": 5}, "vhs")
        + rows_of({"score": 15}, "mllm-clip")
    )


def test_prices_are_sums_of_stages(costs):
    prices = StageCosts(costs, "ms")
    one = {"vhs": "hidden"}
    assert prices.cost(calls(one, {"vhs": 8})) == 8 + 8 * (1 + 20 + 5) + 12 + 40
    both = {"vhs": "hidden", "mllm-clip": "images"}
    assert prices.cost(calls(both, {"vhs": 8, "mllm-clip": 2})) == 8 + 8 * 26 + 2 * (12 + 40 + 15)
    assert StageCosts(costs, "TFLOP").cost(calls(one, {"vhs": 1})) == pytest.approx(0.086)
    with pytest.raises(
        CostError, match=r"no cost in ms was measured for the stage 'advance:vhs' of 'late'\."
    ):
        prices.cost(calls({"vhs": "hidden", "late": "hidden"}, {"vhs": 8, "late": 2}))
    with pytest.raises(CostError, match="stages have no cost in GB"):
        StageCosts(costs, "GB")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cascade", "is no strategy; write NAME:VERIFIERS"),
        ("cascade:vhs", "write cascade:VERIFIER>VERIFIER"),
        ("cascade:vhs>vhs", "names the verifier 'vhs' twice"),
        ("cascade:vhs>mllm-clip,m=3", "has no parameter 'm'; "),
        ("cascade:vhs>mllm-clip,n=2,k=3", "keeps more candidates than it draws"),
        ("best-of-n:vhs,n=0", "n is a whole number from 1 to 10000, not '0'"),
        ("stop:vhs,tau=nan", "tau is a number, not 'nan'"),
        ("best-of-n:vhs,n=1,n=2", "gives n twice"),
    ],
)
def test_a_wrong_text_is_said_in_one_sentence(text, said):
    with pytest.raises(StrategyError) as error:
        parse(text)
    assert said in str(error.value)


def test_text_and_back():
    for text in (
        "cascade:vhs>mllm-clip,n=8,k=2",
        "stop:vhs,n=9,tau=0.5",
        "ensemble:vhs+mllm-ae,n=4,weight=0.25",
    ):
        template = parse(text)
        assert template.text == text
        assert template.whole().values == dict(template.fixed)
    with pytest.raises(StrategyError, match="cannot run without k"):
        parse("cascade:vhs>mllm-clip,n=8").whole()
    with pytest.raises(RegistryError, match="unknown strategy 'cascad'; did you mean 'cascade'"):
        parse("cascad:vhs>mllm-clip")
    with pytest.raises(StrategyError, match="fits no pool of 8 candidates"):
        parse("best-of-n:vhs,n=9").settings(pools())
    for text, steps in (("refine:vhs,steps=3", "3"), ("refine:vhs", "more")):
        with pytest.raises(StrategyError, match=f"made again with {steps} steps"):
            parse(text).settings(
                pools() if steps == "3" else Pools({"vhs": np.zeros((1, 2))}, np.zeros((1, 2)))
            )
    assert {s.steps for s in parse("refine:vhs").settings(pools())} == {2, 4}


@pytest.fixture(scope="module")
def judges(nano):
    return {name: verifiers.create(name, generator="nano") for name in NEEDS}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("strategy", EXAMPLES, ids=str)
def test_it_really_runs(nano, judges, strategy, batch):
    """On the real generator and verifiers it picks what it picks by the scores that they give."""
    prompt, seeds = "a photo of a red circle", list(range(8))
    found = run(strategy, nano, judges, prompt, seeds, batch)
    scores = {v: best_of_n(nano, judges[v], prompt, seeds).scores.numpy() for v in strategy.verifiers}
    known = Pools({v: s[None] for v, s in scores.items()}, np.zeros((1, 8), dtype=bool))
    table = Table(known, 0, range(8))
    assert found.index == strategy.pick(table)
    assert found.scored == strategy.scored(max(found.scored.values()))
    for verifier, by_candidate in found.scores.items():
        for i, score in by_candidate.items():
            assert score == pytest.approx(scores[verifier][i], abs=1e-4)
    made_by = nano.with_steps(strategy.again or 1)
    (image,) = made_by.decode(made_by.denoise(nano.encode([prompt]), nano.noise([seeds[found.index]])))
    apart = np.abs(np.asarray(found.image, dtype=int) - np.asarray(image, dtype=int))
    assert apart.max() <= 1


def test_the_device_is_waited_for_once_for_all_that_is_asked_at_a_time(nano, judges, monkeypatch):
    """As in best_of_n: else the host could not go on to the next candidate before the last one's score is there."""
    read = []

    def counted(verifier, values, name):
        read.append(len(values))
        return check_values(verifier, values, name)

    monkeypatch.setattr(running, "check_values", counted)
    run(Cascade(("vhs", "mllm-ae"), 5, 2), nano, judges, "a photo of a red circle", range(5), batch=2)
    assert read == [5, 2]


def test_other_steps_are_another_generator_of_the_same_weights(nano, judges):
    finer, cond, noise = nano.with_steps(2), nano.encode(["a photo of a red circle"]), nano.noise([3])
    assert (nano.steps, finer.steps) == (1, 2)
    assert finer.modules()["transformer"] is nano.modules()["transformer"]
    built = generators.create("nano", steps=2)
    assert torch.equal(finer.denoise(cond, noise), built.denoise(cond, noise))
    assert not torch.equal(finer.denoise(cond, noise), nano.denoise(cond, noise))
    with pytest.raises(GeneratorError, match="steps is 31, but nano makes an image in 1 to 30 steps"):
        nano.with_steps(31)
    with pytest.raises(GeneratorError, match="own number of steps only"):
        GeneratorDefaults.with_steps(nano, 2)
    with pytest.raises(ValueError, match=r"again with 2 step\(s\), but drafts have 2 already"):
        run(Refine(("vhs",), 2, 2), finer, judges, "a photo of a red circle", range(2))


def test_no_stage_runs_twice(nano, judges, monkeypatch):
    ran = Counter()
    for name in ("encode", "noise", "head", "denoise", "tail", "decode"):
        call = getattr(nano, name)

        def counted(*args, name=name, call=call):
            ran[name] += len(args[0]) if name == "noise" else 1
            return call(*args)

        monkeypatch.setattr(nano, name, counted)
    strategy = Cascade(("vhs", "mllm-clip"), 6, 2)
    run(strategy, nano, judges, "a photo of a red circle", range(6))
    asked = calls({"vhs": "hidden", "mllm-clip": "images"}, strategy.scored(6))
    ran["denoise"] -= ran["head"] + ran["tail"]  # each is a call of the whole pipeline, cut short
    assert {s: n for s, n in ran.items() if n} == {s: n for (_, s), n in asked.items() if s != "score"}


def test_a_later_block_goes_on_from_an_earlier_one(nano):
    cond, noise = nano.encode(["a photo of a red circle"]), nano.noise([3])
    early = nano.head(cond, noise, 2)
    assert torch.equal(nano.advance(early, 5).features, nano.head(cond, noise, 5).features)


def test_too_few_seeds(nano, judges):
    with pytest.raises(ValueError, match="draws up to 6 candidates, but there are 2 seeds"):
        run(BestOfN(("vhs",), 6), nano, judges, "a photo of a red circle", [0, 1])


def made_up(accuracy, hard, kind=Stop):
    """Settings of given accuracies [S, P] and costs [S]."""
    made = [kind(("vhs",), i + 1, 0.0) if kind is Stop else kind(("vhs",), i + 1) for i in range(len(hard))]
    accuracy = np.asarray(accuracy, dtype=float)
    return Evaluated(
        made,
        accuracy,
        np.asarray(hard, float),
        np.repeat(np.asarray(hard, float)[:, None], accuracy.shape[1], 1),
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c"]), min_size=5, max_size=60))
def test_each_prompt_is_held_out_once_a_repeat(tags):
    found = folds(np.array(tags))
    assert (found.sum(0) == 5).all()
    sizes = found.sum(1)
    assert sizes.max() - sizes.min() <= 1


def test_the_choice_knows_nothing_of_the_prompts_that_judge_it():
    """One setting is right on a prompt, the others are not: chosen without it, it gets nothing there."""
    prompts = 10
    accuracy = np.eye(prompts)  # setting i is right on prompt i alone
    held = folds(np.array(["a"] * prompts))
    found = choose(made_up(accuracy, np.ones(prompts)), 1.0, "hard", held)
    assert (found.accuracy == 0).all()
    assert accuracy.mean(1).max() == 0.1  # what a naive choice would report


def test_a_budget_is_never_passed_in_the_choice():
    accuracy = [[0.5] * 10, [0.6] * 10, [0.9] * 10]
    held = folds(np.array(["a"] * 10))
    found = choose(made_up(accuracy, [1.0, 2.0, 4.0]), 3.0, "hard", held)
    assert (found.accuracy == 0.6).all()
    assert (found.usual.n, found.worst) == (2, 2.0)
    assert choose(made_up(accuracy, [1.0, 2.0, 4.0]), 0.5, "hard", held) is None
    # alike in accuracy, the cheaper is taken; best-of-N has nothing to choose: the largest
    alike = [[0.5] * 10] * 3
    assert choose(made_up(alike, [1.0, 2.0, 4.0]), 3.0, "hard", held).usual.n == 1
    assert choose(made_up(alike, [1.0, 2.0, 4.0], BestOfN), 3.0, "hard", held).usual.n == 2


def test_a_mean_budget_lets_easy_prompts_pay_for_hard_ones():
    known = pools(rows=40, size=8)
    strategies = Stop.settings(("vhs",), {}, known)
    found = evaluate(strategies, known, np.arange(40), lambda s, drawn: 10.0 * drawn)
    held = folds(np.array(["a"] * 40))
    hard, mean = (choose(found, 40.0, meaning, held) for meaning in ("hard", "mean"))
    assert hard.worst <= 40 < mean.worst
    assert mean.cost.mean() < 44  # held out, so about the budget
    assert all(s.n <= 4 for s in hard.chosen)


def test_a_strategy_of_ones_own_needs_no_formula():
    """Its expectation is drawn: the same draws for all strategies, from fixed seeds."""
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class First(Strategy):
        verifiers: tuple[str, ...]
        n: int

        @classmethod
        def settings(cls, verifiers, fixed, pools):
            return [cls(verifiers, 2)]

        def scored(self, drawn):
            return {self.verifiers[0]: drawn}

        def pick(self, contestants):
            a, b = contestants.scores(self.verifiers[0], [0, 1])
            return 0 if a >= b else 1

    known = pools(rows=30)
    found = First(("vhs",), 2).expected(known)
    exact = BestOfN(("vhs",), 2).expected(known)
    assert isinstance(found, Outcome)
    assert found.accuracy == pytest.approx(exact.accuracy, abs=0.2)
    assert found.accuracy.mean() == pytest.approx(exact.accuracy.mean(), abs=0.02)
    assert np.array_equal(found.accuracy, First(("vhs",), 2).expected(known).accuracy)
