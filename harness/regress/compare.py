"""Compare two verifiers on the same candidates: accuracy, ranking, calibration, drift of scores, changed picks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import ks_2samp, spearmanr, wasserstein_distance

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.tasks import in_order
from vhsbench.harness.regress.gate_config import GateConfig
from vhsbench.harness.regress.picks import ChangedPick, changed_picks, picks
from vhsbench.harness.regress.points import OperatingPoint, same_n
from vhsbench.harness.regress.scores import Floats, LabeledCandidates, VerifierScores
from vhsbench.harness.regress.strategies import Duel
from vhsbench.harness.report.calibration import reliability
from vhsbench.harness.stats.curves import GENEVAL_OVERALL, OVERALL
from vhsbench.harness.stats.expected import expected_accuracy, largest_difference
from vhsbench.harness.stats.intervals import average_by_prompt, paired_difference
from vhsbench.harness.stats.paired import (
    auc_permutation,
    detectable,
    holm,
    least_p,
    mcnemar,
    prompts_needed,
    sign_flip,
    standard_error,
)

Tags = NDArray[np.str_]


class ComparisonError(VhsbenchError):
    """Two verifiers that cannot be compared; the message is one sentence for a user."""


@dataclass(frozen=True)
class Difference:
    """Exact best-of-N accuracy in percent, candidate less baseline in points, with its 95% interval.

    p: one-sided, "worse"; p_holm: corrected within its half of the gate's alpha; both None for GenEval's
    overall, which decides nothing. detectable: the loss found with 80% power, from the spread of the observed
    differences (None if there are none); detectable_independent: the same for two verifiers with nothing in common.
    Both are None if unseen: then no loss that these prompts leave room for is found with that power.
    lost, won, p_mcnemar: prompts whose pick turned wrong and right. n is the baseline's N; n_candidate is
    None if the candidate's is the same; budget gave them. With a `strategy`, n are of the `settings` that baseline and
    candidate chose most often there, and no single pick is compared: lost, won and p_mcnemar are None.
    """

    tag: str
    n: int
    n_prompts: int
    baseline: float
    candidate: float
    difference: float
    low: float
    high: float
    p: float | None = None
    p_holm: float | None = None
    detectable: float | None = None
    detectable_independent: float | None = None
    unseen: bool = False
    prompts_needed: int | None = None
    lost: int | None = 0
    won: int | None = 0
    p_mcnemar: float | None = 1.0
    n_candidate: int | None = None
    budget: str = ""
    strategy: str = ""
    settings: tuple[str, str] | None = None

    @property
    def point(self) -> OperatingPoint:
        return OperatingPoint(self.n, self.n_candidate or self.n, self.budget)

    @property
    def where(self) -> str:
        """As "N = 4", or "stop:vhs at 550ms (N = 4 against 2)"."""
        return f"{self.strategy} at {self.point.shown}" if self.strategy else self.point.shown

    @property
    def is_overall(self) -> bool:
        return self.tag == OVERALL


@dataclass(frozen=True)
class Separation:
    """AUC of a task or overall; p as in Difference, NaN if one class is empty."""

    tag: str
    baseline: float
    candidate: float
    p: float
    p_holm: float


@dataclass(frozen=True)
class Calibration:
    """Expected calibration error of P(yes) / (P(yes) + P(no)), and the curve behind it, empty bins left out."""

    ece: float
    curve: list[dict[str, float]]


@dataclass(frozen=True)
class ScoreDrift:
    """How the scores moved. Spearman's correlation is over all candidates, and the mean within prompts."""

    ks: float
    wasserstein: float
    spearman: float
    spearman_within: float


@dataclass(frozen=True)
class Comparison:
    """All results of a comparison."""

    baseline: str
    candidate: str
    n_prompts: int
    pool_size: int
    points: list[OperatingPoint]
    differences: list[Difference]
    separation: list[Separation]
    calibration: tuple[Calibration, Calibration]
    drift: ScoreDrift
    changed: list[ChangedPick]
    identical: bool  # whether every score is the same

    @property
    def widest(self) -> OperatingPoint:
        """The point of the largest N; its changed picks are listed."""
        return _widest(self.points)


def check_size(candidates: LabeledCandidates, points: Sequence[OperatingPoint]) -> None:
    """Raise ComparisonError for an N beyond the pool."""
    size, widest = candidates.correct.shape[1], _widest(points)
    if (largest := max(widest.n_baseline, widest.n_candidate)) > size:
        by = f" ({widest.budget})" if widest.budget else ""
        raise ComparisonError(
            f"the gate asks for the best of {largest}{by}, but the pool has only {size} candidates a prompt."
        )


def _widest(points: Sequence[OperatingPoint]) -> OperatingPoint:
    return max(points, key=lambda p: max(p.n_baseline, p.n_candidate))


def compare(
    candidates: LabeledCandidates,
    baseline: VerifierScores,
    candidate: VerifierScores,
    gate: GateConfig,
    points: Sequence[OperatingPoint] | None = None,
    duels: Sequence[Duel] = (),
) -> Comparison:
    """Compare two verifiers at `points` (None: the gate's best_of_n), and in strategies.

    Raises ComparisonError for an N beyond the pool, or scores that do not fit it.
    """
    points = same_n(gate) if points is None else list(points)
    check_size(candidates, points)
    for side in (baseline, candidate):
        if side.score.shape != candidates.correct.shape or not np.isfinite(side.score).all():
            raise ComparisonError(f"'{side.name}' did not give every candidate of the pool a finite score.")
    accuracy, ranking = correct_for_number(
        differences(candidates, baseline.score, candidate.score, gate, points, duels),
        separation(candidates, baseline.score, candidate.score, gate),
    )
    return Comparison(
        baseline=baseline.name,
        candidate=candidate.name,
        n_prompts=len(np.unique(candidates.prompt_id)),
        pool_size=candidates.correct.shape[1],
        points=points,
        differences=accuracy,
        separation=ranking,
        calibration=(_calibration(baseline, candidates), _calibration(candidate, candidates)),
        drift=score_drift(baseline.score, candidate.score),
        changed=changed_picks(candidates, baseline.score, candidate.score, _widest(points)),
        identical=bool((baseline.score == candidate.score).all()),
    )


def differences(
    candidates: LabeledCandidates,
    a: Floats,
    b: Floats,
    gate: GateConfig,
    points: Sequence[OperatingPoint] | None = None,
    duels: Sequence[Duel] = (),
) -> list[Difference]:
    """Make a row per point and duel, overall and for each task and GenEval overall.

    a, b: scores [R, M] of baseline and candidate.
    """
    points = same_n(gate) if points is None else list(points)
    of_a = _accuracies(candidates, a, [p.n_baseline for p in points])
    of_b = _accuracies(candidates, b, [p.n_candidate for p in points])
    of_a, of_b = (
        np.column_stack([of, *(d.accuracy[side] for d in duels)]) for side, of in enumerate((of_a, of_b))
    )
    tags = candidates.tags[np.unique(candidates.prompt_id, return_index=True)[1]]
    tasks = in_order(tags)
    # exactly 0 where both are the same verifier: then nothing is estimated
    apart = np.array([
        *(100 * largest_difference(a, b, p.n_baseline, p.n_candidate) for p in points),
        *(0.0 if d.same else 100.0 for d in duels),
    ])  # fmt: skip
    places = [*points, *(OperatingPoint(*d.n, d.budget) for d in duels)]
    table = []
    for tag in (OVERALL, *tasks, GENEVAL_OVERALL):
        mine, by_task = _rows_of(tag, tags), tag == GENEVAL_OVERALL
        x, y, strata = of_a[mine], of_b[mine], tags[mine]
        gap = paired_difference(y, x, tasks=strata, by_task=by_task, largest=apart)
        p = None if by_task else sign_flip(y - x, gate.permutations, gate.seed)  # GenEval's decides nothing
        family = (len(places) + 1) * (1 if tag == OVERALL else len(tasks))
        for i, point in enumerate(places):
            row = Difference(
                tag, point.n_baseline, len(strata), _mean(x[:, i], strata, by_task), _mean(y[:, i], strata, by_task),
                float(gap.mean[i]), float(gap.low[i]), float(gap.high[i]), budget=point.budget,
                n_candidate=None if point.n_candidate == point.n_baseline else point.n_candidate,
            )  # fmt: skip
            if p is not None:
                power = _power(x[:, i], y[:, i], strata, gate, gate.alpha / 2 / family, float(apart[i]))
                row = replace(row, p=float(p[i]), **power)
            duel = duels[i - len(points)] if i >= len(points) else None
            table.append(replace(row, **(_in(duel) if duel else _mcnemar(candidates, a, b, row))))
    return table


def _accuracies(candidates: LabeledCandidates, scores: Floats, ns: Sequence[int]) -> Floats:
    """Return best-of-N in percent [P, len(ns)], each prompt's seeds averaged."""
    accuracy = 100 * expected_accuracy(scores, candidates.correct)[:, np.array(ns) - 1]
    return average_by_prompt(accuracy, candidates.prompt_id)


def _rows_of(tag: str, tags: Tags) -> NDArray[np.bool_]:
    """Return which of the rows with `tags` belong to a task, or to an overall."""
    return np.full(len(tags), True) if tag in (OVERALL, GENEVAL_OVERALL) else tags == tag


def _mean(values: Floats, tags: Tags, by_task: bool) -> float:
    if by_task:
        return float(np.mean([values[tags == t].mean() for t in np.unique(tags)]))
    return float(values.mean())


def _power(a: Floats, b: Floats, tags: Tags, gate: GateConfig, alpha: float, apart: float) -> dict[str, Any]:
    """Return the losses that accuracies [P] detect with 80% power at the level of Holm's first, strictest step.

    apart: by how many points two verifiers can differ on a prompt; 0 for one verifier twice, which bounds nothing.
    """
    error = standard_error(b - a, tags)
    independent = math.hypot(standard_error(a, tags), standard_error(b, tags))
    observed, bound = (detectable(e, alpha) if e > 0 else None for e in (error, independent))
    found = bound if observed is None else observed
    room = min(float(a.mean()), apart or 100.0)
    unseen = least_p(len(a), gate.permutations) > alpha or (found is not None and found > room)
    return {
        "detectable": None if unseen else observed,
        "detectable_independent": None if unseen else bound,
        "unseen": unseen,
        "prompts_needed": prompts_needed(len(a), error, gate.margin_points, alpha),
    }


def _mcnemar(candidates: LabeledCandidates, a: Floats, b: Floats, row: Difference) -> dict[str, Any]:
    mine = _rows_of(row.tag, candidates.tags)
    _, prompt = np.unique(candidates.prompt_id[mine], return_inverse=True)
    rows = np.arange(len(a))
    right = [candidates.correct[rows, pick][mine] for pick in picks(a, b, row.point)]
    lost, won, p = mcnemar(*(np.bincount(prompt, r) for r in right))  # over a prompt's seeds
    return {"lost": lost, "won": won, "p_mcnemar": p}


def _in(duel: Duel) -> dict[str, Any]:
    unknown = dict.fromkeys(("lost", "won", "p_mcnemar"))
    return {"strategy": duel.strategy, "settings": duel.settings} | unknown


def separation(candidates: LabeledCandidates, a: Floats, b: Floats, gate: GateConfig) -> list[Separation]:
    """Measure AUC overall and per task, with permutation tests by prompt."""
    ids = candidates.prompt_id
    order = np.argsort(ids, kind="stable")
    prompts = len(np.unique(ids))
    if len(ids) % prompts:
        raise ComparisonError("the pool does not have the same seeds for every prompt.")
    # a prompt's seeds side by side: they are exchanged together
    a, b = (x[order].reshape(prompts, -1) for x in (a, b))
    correct = candidates.correct[order].reshape(prompts, -1)
    tags = candidates.tags[order][:: len(ids) // prompts]
    present = in_order(tags)
    rows = []
    for tag in (OVERALL, *present):
        mine = slice(None) if tag == OVERALL else tags == tag
        rows.append(auc_permutation(a[mine], b[mine], correct[mine], gate.auc_permutations, gate.seed))
    return [Separation(tag, *row, math.nan) for tag, row in zip((OVERALL, *present), rows, strict=True)]


def correct_for_number(
    accuracy: Sequence[Difference], ranking: Sequence[Separation]
) -> tuple[list[Difference], list[Separation]]:
    """Add p_holm: one family is overall accuracy at every N and overall AUC, the other those of the tasks."""
    accuracy, ranking = list(accuracy), list(ranking)
    for overall in (True, False):
        first = [i for i, d in enumerate(accuracy) if d.p is not None and d.is_overall == overall]
        second = [i for i, s in enumerate(ranking) if not math.isnan(s.p) and (s.tag == OVERALL) == overall]
        adjusted = holm([*(accuracy[i].p or 0.0 for i in first), *(ranking[i].p for i in second)])
        for i, p in zip(first, adjusted[: len(first)], strict=True):
            accuracy[i] = replace(accuracy[i], p_holm=float(p))
        for i, p in zip(second, adjusted[len(first) :], strict=True):
            ranking[i] = replace(ranking[i], p_holm=float(p))
    return accuracy, ranking


def _calibration(scores: VerifierScores, candidates: LabeledCandidates) -> Calibration:
    row, index = (x.ravel() for x in np.indices(candidates.correct.shape))
    keys = pd.DataFrame(
        {"prompt_id": candidates.prompt_id[row], "seed": candidates.seed[row], "index": index}
    ).assign(generator="", steps=1)
    curve = reliability(
        keys.assign(correct=candidates.correct.ravel()),
        keys.assign(verifier=scores.name, p_yes=scores.p_yes.ravel(), p_no=scores.p_no.ravel()),
    )
    used = curve[curve["n"] > 0]
    return Calibration(
        float(curve["ece"].iloc[0]) if len(curve) else math.nan,
        used.drop(columns=["verifier", "ece"]).to_dict("records"),  # type: ignore[arg-type]
    )


def score_drift(a: Floats, b: Floats) -> ScoreDrift:
    """Compare scores [R, M], whatever the verdicts."""
    within = [_spearman(x, y) for x, y in zip(a, b, strict=True)]
    known = [r for r in within if not math.isnan(r)]
    return ScoreDrift(
        ks=float(ks_2samp(a.ravel(), b.ravel()).statistic),
        wasserstein=float(wasserstein_distance(a.ravel(), b.ravel())),
        spearman=_spearman(a.ravel(), b.ravel()),
        spearman_within=float(np.mean(known)) if known else math.nan,
    )


def _spearman(x: Floats, y: Floats) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:  # no order to correlate
        return math.nan
    return float(spearmanr(x, y).statistic)
