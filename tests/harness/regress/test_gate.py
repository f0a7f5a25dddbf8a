"""The gate proven by simulation, without models: false alarms, wrong passes, power; and its configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm

from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.config.run import ConfigError
from vhsbench.harness.regress import speed as speeds
from vhsbench.harness.regress.compare import (
    Difference,
    Separation,
    compare,
    correct_for_number,
    differences,
    separation,
)
from vhsbench.harness.regress.gate import EXIT_CODES, decide
from vhsbench.harness.regress.gate_config import GateConfig, load_gate
from vhsbench.harness.regress.speed import Speed, paired_ratio
from vhsbench.harness.stats.expected import largest_difference
from vhsbench.harness.stats.intervals import missed_share, paired_difference

FAST = GateConfig(best_of_n=(2, 4), bootstrap=200, permutations=399, auc_permutations=199)


class _Only:
    """The part of a comparison that the verdict reads."""

    def __init__(self, rows: list[Difference], ranking: Sequence[Separation] = ()) -> None:
        self.differences, self.separation = rows, ranking


def outcomes(
    simulated, skills: tuple[float, float], trials: int, prompts: int, gate: GateConfig = FAST
) -> list[str]:
    rng = np.random.default_rng(11)
    found = []
    for _ in range(trials):
        candidates, a, b = simulated(rng, prompts, 6, skills)
        rows = [test(candidates, a.score, b.score, gate) for test in (differences, separation)]
        found.append(decide(_Only(*correct_for_number(*rows)), gate).outcome)
    return found


def test_equally_good_verifiers_fail_at_most_as_often_as_alpha_says(simulated):
    gate = FAST.model_copy(update={"best_of_n": (4,)})
    trials = 200
    found = outcomes(simulated, (1.0, 1.0), trials, 42, gate)
    assert found.count("fail") / trials <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / trials)
    assert found.count("inconclusive") > 0  # 42 prompts do not show a margin of one point


def test_a_loss_of_the_margin_rarely_passes():
    """At the boundary the lower end of a 95% interval is above the margin in about 2.5% of pools."""
    rng, margin, trials, passed = np.random.default_rng(5), 2.0, 400, 0
    gate = FAST.model_copy(update={"best_of_n": (1,), "margin_points": margin})
    for _ in range(trials):
        d = rng.normal(-margin, 10.0, 120)
        low = d.mean() - 1.96 * d.std(ddof=1) / math.sqrt(120)
        row = Difference("overall", 1, 120, 70.0, 70.0 + d.mean(), d.mean(), low, 1.0, p=0.5, p_holm=0.5)
        passed += decide(_Only([row]), gate).outcome == "pass"
    assert passed / trials <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / trials)


@pytest.mark.parametrize("prompts", [60, 150, 300])
def test_a_loss_of_the_margin_on_few_prompts_rarely_passes(prompts):
    """1% of prompts are lost altogether: often none is among those seen, which shows nothing yet."""
    rng, trials, passed, unseen = np.random.default_rng(6), 200, 0, 0
    for _ in range(trials):
        d = -100.0 * (rng.random(prompts) < 0.01)
        found = paired_difference(d, np.zeros(prompts), largest=100)
        ends = (float(found.mean[0]), float(found.low[0]), float(found.high[0]))
        row = Difference("overall", 4, prompts, 90.0, 90.0 + ends[0], *ends, p=0.5, p_holm=0.5)
        passed += decide(_Only([row]), GateConfig(margin_points=1.0)).outcome == "pass"
        unseen += not d.any()
    assert passed / trials <= 0.025
    assert unseen / trials > 0.025  # so often a difference of 0 was taken for certain


def test_another_verifier_that_happens_to_pick_alike_is_not_the_same_one(simulated):
    """The same verifier differs by exactly 0; one whose scores alone differ was seen on so many prompts only."""
    candidates, a, _ = simulated(np.random.default_rng(3), 36, 6, (1.0, 1.0))
    gate = FAST.model_copy(update={"best_of_n": (1, 4)})
    same, first, other = (
        differences(candidates, a.score, scores, gate)[i]
        for scores, i in ((a.score, 1), (2 * a.score, 0), (2 * a.score, 1))
    )
    assert (same.n, same.low, same.high) == (4, 0, 0)
    assert (first.n, first.low, first.high) == (1, 0, 0)  # best of 1 is any candidate
    assert (other.n, other.difference) == (4, 0)
    assert other.low == pytest.approx(
        -100 * missed_share(36) * largest_difference(a.score, 2 * a.score, 4, 4)
    )


def test_a_clearly_worse_verifier_fails_and_a_better_one_passes(simulated):
    assert outcomes(simulated, (2.0, 0.2), 8, 120).count("fail") >= 7
    assert outcomes(simulated, (0.2, 2.0), 8, 120) == ["pass"] * 8


def test_more_damage_fails_in_more_tasks(simulated):
    gate = GateConfig(bootstrap=200, permutations=999, auc_permutations=999)
    failed = []
    for skill in (1.6, 1.2, 0.0):
        candidates, a, b = simulated(np.random.default_rng(9), 300, 6, (1.6, skill))
        found = compare(candidates, a, b, gate)
        assert decide(found, gate).outcome == ("fail" if skill < 1.6 else "inconclusive")
        failed.append({s.tag for s in found.separation[1:] if s.p_holm <= gate.alpha / 2})
    assert failed[0] == set()
    assert failed[1] < failed[2] == set(TAGS)


def test_detectable_of_a_comparison_is_what_simulated_pools_find(simulated):
    """The printed number, from one pool's own spread, against the share of pools in which it is found."""
    rng = np.random.default_rng(7)
    gate = GateConfig(best_of_n=(4,), bootstrap=100, permutations=399)
    skills = (1.0, 0.62)
    rows, hits = [], 0
    for _ in range(200):
        candidates, a, b = simulated(rng, 180, 6, skills)
        row = next(r for r in differences(candidates, a.score, b.score, gate) if r.is_overall)
        rows.append(row)
        hits += row.p <= gate.alpha / 4  # the first of Holm's steps: this accuracy and the AUC
    detectable = np.mean([r.detectable for r in rows])
    true = -np.mean([r.difference for r in rows])
    critical = norm.isf(gate.alpha / 4)
    expected = norm.cdf(true * (critical + norm.ppf(0.8)) / detectable - critical)
    assert 0.4 < expected < 0.95  # else the test says nothing
    assert hits / 200 == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / 200) + 0.02)


def losses(simulated, prompts: int, size: int = 6, **keys: int) -> list[Difference]:
    candidates, a, b = simulated(np.random.default_rng(8), prompts, size, (1.6, 0.4))
    return [r for r in differences(candidates, a.score, b.score, GateConfig(**keys)) if r.p is not None]


@pytest.mark.parametrize("prompts", [2, 6, 12, 24, 60, 200])
def test_a_detectable_loss_is_one_that_the_prompts_leave_room_for(simulated, prompts):
    """A tiny pool was said to find a loss of 185 points; one that finds nothing says so."""
    rows = losses(simulated, prompts)
    for row in rows:
        assert all(
            found is None or 0 < found <= row.baseline
            for found in (row.detectable, row.detectable_independent)
        )
        assert not row.unseen or row.detectable is row.detectable_independent is None
    if prompts <= 24:  # up to four prompts a task: 0.5^4 is above every step of Holm's
        assert all(r.unseen for r in rows[1:])
    assert rows[0].unseen == (prompts <= 6)
    assert prompts != 200 or [r.unseen for r in rows] == [False] * 7


def test_no_loss_is_seen_where_permutations_are_too_few(simulated):
    """At 99 permutations no p-value is below 0.01, and the tasks' first step is 0.025 / 12."""
    few, many = (losses(simulated, 200, permutations=k) for k in (99, 9999))
    assert [r.unseen for r in few] == [False] + [True] * 6
    assert not any(r.unseen for r in many)


def test_identical_scores_that_are_all_right_bound_no_loss(simulated):
    """Without any spread nothing is known: a loss of 0.00 points is not detected."""
    candidates, a, _ = simulated(np.random.default_rng(8), 60, 6, (1.0, 1.0))
    right = replace(candidates, correct=np.ones_like(candidates.correct))
    for row in differences(right, a.score, a.score, GateConfig()):
        assert row.detectable is row.detectable_independent is None


def test_worse_within_the_margin_passes_and_a_task_alone_can_fail():
    kept = Difference("overall", 4, 500, 80, 79.6, -0.4, -0.7, -0.1, p=0.001, p_holm=0.001)
    assert decide(_Only([kept]), GateConfig()).outcome == "pass"
    task = Difference("counting", 4, 80, 60, 50, -10.0, -15.0, -5.0, p=0.001, p_holm=0.006)
    verdict = decide(_Only([kept, task]), GateConfig())
    assert verdict.outcome == "fail"
    assert {c.name: (c.outcome, c.values) for c in verdict.checks} == {
        "accuracy[overall-N=4]": ("pass", kept),
        "accuracy[counting-N=4]": ("fail", task),
        "cost": ("pass", None),
    }
    assert (
        verdict.reasons
        == verdict.checks[1].reasons
        == ("counting at N = 4 is worse by 10.00 points [-15.00, -5.00].",)
    )


def test_too_few_prompts_is_inconclusive_and_says_how_many_would_do():
    row = Difference(
        "overall", 4, 40, 80, 79, -1.0, -5.0, 3.0, p=0.3, p_holm=0.3, detectable=5.7, prompts_needed=1300
    )
    verdict = decide(_Only([row]), GateConfig())
    assert verdict.outcome == "inconclusive"
    assert all(part in verdict.reasons[0] for part in ("overall at N = 4", "-1.00", "(40)", "1300 prompts"))
    blind = decide(_Only([replace(row, detectable=None, unseen=True)]), GateConfig()).reasons[0]
    assert "no loss can be seen with these prompts; about 1300 prompts" in blind
    fewer = decide(_Only([replace(row, prompts_needed=5)]), GateConfig()).reasons[0]
    assert fewer.endswith("too few prompts (40).")  # five would not show what forty do not
    one = Difference("overall", 4, 1, 80, 79, -1.0, math.nan, math.nan, p=1.0, p_holm=1.0)
    assert decide(_Only([one]), GateConfig()).outcome == "inconclusive"


@pytest.mark.parametrize(
    ("ratio", "outcome"),
    [((1.0, 0.9, 1.1), "pass"), ((1.5, 1.3, 1.7), "fail"), ((1.2, 1.0, 1.4), "inconclusive")],
)
def test_a_limit_on_time(ratio, outcome):
    speed = Speed("cpu", 1, 30, 10.0, 10.0 * ratio[0], *ratio, 0.1, 0.1, 1.0)
    assert decide(_Only([]), GateConfig(max_time_ratio=1.2), speed).outcome == outcome
    assert decide(_Only([]), GateConfig(), speed).outcome == "pass"  # reported only
    assert decide(_Only([]), GateConfig(max_time_ratio=1.2)).outcome == "inconclusive"  # never measured


def test_a_time_ratio_of_few_rounds_shows_nothing():
    """Of three rounds a bootstrap's interval covers the median in 75% of cases; of six the extremes do in 97%."""
    assert paired_ratio([1, 1, 1], [1.0, 1.1, 1.05]) == (1.05, 0, math.inf)
    speed = Speed("cpu", 1, 3, 1.0, 1.05, *paired_ratio([1, 1, 1], [1.0, 1.1, 1.05]), 0.1, 0.1, 1.0)
    unsure = decide(_Only([]), GateConfig(max_time_ratio=1.2), speed)
    assert unsure.outcome == "inconclusive"
    assert "1.05 (no interval: fewer than six rounds) is too uncertain" in unsure.reasons[0]
    assert decide(_Only([]), GateConfig(), speed).outcome == "pass"
    rounds = [1.0, 1.1, 1.05, 1.2, 0.9, 1.02]
    assert paired_ratio(np.ones(6), rounds) == pytest.approx((1.035, 0.9, 1.2))


def test_a_limit_on_memory():
    speed = Speed("cpu", 1, 30, 10.0, 10.0, 1.0, 0.9, 1.1, 0.1, 0.2, 2.0)
    assert decide(_Only([]), GateConfig(max_memory_ratio=1.5), speed).outcome == "fail"
    assert decide(_Only([]), GateConfig(max_memory_ratio=2.0), speed).outcome == "pass"


def test_exit_codes():
    assert EXIT_CODES == {"pass": 0, "fail": 1, "inconclusive": 3}


def test_unreliable_times_alone_have_an_exit_code_of_their_own():
    gate = GateConfig(max_time_ratio=1.2)
    unsure = Speed("cpu", 1, 30, 10.0, 12.0, 1.2, 1.0, 1.4, 0.1, 0.1, 1.0)
    tainted = replace(unsure, time_ratio=None, time_low=None, time_high=None, tainted=30, taint="busy")
    few = Difference("overall", 4, 40, 80, 79, -1.0, -5.0, 3.0, p=0.3, p_holm=0.3)
    worse = Difference("overall", 4, 500, 80, 70, -10.0, -12.0, -8.0, p=0.001, p_holm=0.001)
    found = {
        "unsure": decide(_Only([]), gate, unsure), "tainted": decide(_Only([]), gate, tainted),
        "never timed": decide(_Only([]), gate), "few": decide(_Only([few]), gate, unsure),
        "worse": decide(_Only([worse]), gate, unsure),
        "memory": decide(_Only([]), gate.model_copy(update={"max_memory_ratio": 1.0}), replace(unsure, memory_ratio=2.0)),
    }  # fmt: skip
    assert {name: (verdict.outcome, verdict.exit_code) for name, verdict in found.items()} == {
        "unsure": ("inconclusive", 4), "tainted": ("inconclusive", 4), "never timed": ("inconclusive", 3),
        "few": ("inconclusive", 3), "worse": ("fail", 1), "memory": ("fail", 1),
    }  # fmt: skip


def test_seeds_do_not_narrow_anything(simulated):
    """Prompts are what varies: repeating each pool seven times leaves intervals and tests as they were."""
    candidates, a, b = simulated(np.random.default_rng(3), 36, 6, (1.0, 0.5))
    one = compare(candidates, a, b, FAST)
    again = np.repeat(np.arange(36), 7)
    many = compare(
        type(candidates)(candidates.prompts, again, np.tile(np.arange(7), 36), candidates.correct[again]),
        *(type(x)(x.name, x.score[again], x.p_yes[again], x.p_no[again]) for x in (a, b)),
        FAST,
    )
    for x, y in zip(one.differences, many.differences, strict=True):
        assert (x.low, x.high, x.p_holm) == pytest.approx((y.low, y.high, y.p_holm)) if x.p_holm else True
        assert (x.lost, x.won, x.p_mcnemar) == (y.lost, y.won, y.p_mcnemar)
    assert [s.p for s in one.separation] == pytest.approx([s.p for s in many.separation], abs=0.06)


def test_calibration_of_an_overconfident_and_of_a_silent_verifier(simulated):
    candidates, a, b = simulated(np.random.default_rng(3), 60, 6, (1.0, 1.0))
    shares = [(r["share_low"], r["share_high"]) for r in compare(candidates, a, b, FAST).calibration[0].curve]
    seeds = np.repeat(np.arange(60), 3)  # the same candidates under three seeds are no more prompts
    thrice = type(candidates)(candidates.prompts, seeds, np.tile(np.arange(3), 60), candidates.correct[seeds])
    again = [replace(x, score=x.score[seeds], p_yes=x.p_yes[seeds], p_no=x.p_no[seeds]) for x in (a, b)]
    curve = compare(thrice, *again, FAST).calibration[0].curve
    assert np.array([(r["share_low"], r["share_high"]) for r in curve]) == pytest.approx(np.array(shares))
    sure = replace(a, p_yes=np.ones_like(a.p_yes), p_no=np.zeros_like(a.p_no))
    silent = replace(b, p_yes=np.full_like(b.p_yes, np.nan))
    first, second = compare(candidates, sure, silent, FAST).calibration
    assert first.ece == pytest.approx(1 - candidates.correct.mean())
    assert [r["n"] for r in first.curve] == [360]
    assert math.isnan(second.ece)
    assert second.curve == []


def test_gate_files(tmp_path):
    file = tmp_path / "gate.yaml"
    file.write_text("best_of_n: [2, 8]\nmargin_points: 0.5\n")
    assert load_gate(file).best_of_n == (2, 8)
    assert load_gate(None).margin_points == 1.0
    for text, *said in (
        ("margin_point: 1\n", "'margin_point'", "'margin_points'?"),
        ("alpha: 2\n", "key 'alpha'", "2."),
        ("best_of_n: [4, 5000]\n", "line 1, key 'best_of_n.1'", "4096", "5000."),
        ("bootstrap: 100000000\n", "key 'bootstrap'", "1000000", "100000000."),
        ("permutations: 50\n", "key 'permutations'", "99", "50."),
        ("auc_permutations: 10000000\n", "key 'auc_permutations'", "1000000", "10000000."),
        ("seed: 9223372036854775808\n", "key 'seed'", "9223372036854775807", "9223372036854775808."),
        ("timing_repeats: 10000000\n", "key 'timing_repeats'", "1000000", "10000000."),
        ("threads: 5000\n", "key 'threads'", "1024", "5000."),
        ("margin_points: .nan\n", "key 'margin_points'", "nan."),
        ("max_time_ratio: .inf\n", "key 'max_time_ratio'", "inf."),
        ("device: gpu\n", "line 1, key 'device'", "'gpu'", "cpu, cuda, cuda:N."),
        ("[1]", "'margin_points: 1.0'"),
        ("alpha: 0.1\nalpha: 0.2\n", "line 2, key 'alpha'", "twice"),
        ("a: [", "not YAML"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"gate\.yaml") as error:
            load_gate(file)
        assert all(part in str(error.value) for part in said), str(error.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_gate(tmp_path / "none.yaml")


@pytest.mark.parametrize("spoil", ["some", "all"])
def test_tainted_rounds_are_left_out_of_the_time_ratio(monkeypatch, fake_time, spoil):
    """The candidate takes twice as long, and a hundred times in a spoiled round."""
    done = 0

    def taints(gpu):
        nonlocal done
        done += 1
        return ["other processes on the GPU: 7"] if spoil == "all" or done % 2 == 0 else []

    def scoring(seconds):
        # the second, fourth ... round is the spoiled one
        return lambda: fake_time.sleep(seconds * (50 if seconds == 0.02 and done % 2 else 1))

    side = SimpleNamespace(device=torch.device("cpu"))
    monkeypatch.setattr(speeds, "taints", taints)
    monkeypatch.setattr(speeds, "time", fake_time)
    monkeypatch.setattr(speeds, "_peak_gb", lambda *_: 1.0)
    calls = iter([scoring(0.01), scoring(0.02)])
    monkeypatch.setattr(speeds, "scoring", lambda *_: next(calls))
    speed = speeds.side_by_side(side, side, None, batch=1, repeats=12, warm_up=1)
    gate = GateConfig(max_time_ratio=3.0)
    if spoil == "some":
        assert (speed.baseline_ms, speed.candidate_ms) == (pytest.approx(10), pytest.approx(20))
        assert (speed.time_ratio, speed.time_low, speed.time_high) == pytest.approx((2, 2, 2))
        assert (speed.tainted, speed.repeats) == (6, 12)
        assert decide(_Only([]), gate, speed).outcome == "pass"
        return
    assert (speed.baseline_ms, speed.time_ratio, speed.time_high, speed.tainted) == (None, None, None, 12)
    verdict = decide(_Only([]), gate, speed)
    assert verdict.outcome == "inconclusive"
    assert verdict.reasons == (
        "the time ratio has a limit of 3, but it was not measured: all 12 rounds were tainted "
        "(other processes on the GPU: 7).",
    )
