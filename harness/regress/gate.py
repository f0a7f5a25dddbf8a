"""Decide the verdict on a comparison, check by check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from vhsbench.harness.common import exit_codes
from vhsbench.harness.regress.compare import Comparison, Difference, Separation
from vhsbench.harness.regress.gate_config import GateConfig
from vhsbench.harness.regress.speed import Speed, ratio_interval
from vhsbench.harness.stats.intervals import brackets

Outcome = Literal["pass", "fail", "inconclusive"]
PASS: Outcome = "pass"
FAIL: Outcome = "fail"
INCONCLUSIVE: Outcome = "inconclusive"
EXIT_CODES: dict[Outcome, int] = {
    PASS: exit_codes.DONE,
    FAIL: exit_codes.FAILURES,
    INCONCLUSIVE: exit_codes.INCONCLUSIVE,
}


@dataclass(frozen=True)
class Check:
    """One thing that the gate checks. `reasons` are sentences that explain why it does not pass."""

    name: str  # as "accuracy[counting-N=4]", "auc[overall]" or "cost"
    outcome: Outcome
    reasons: tuple[str, ...]
    values: Difference | Separation | Speed | None  # what was measured; None: nothing
    only_times: bool = False  # inconclusive, but only because the times measured cannot be trusted


@dataclass(frozen=True)
class GateVerdict:
    """The outcome, the sentences that explain it, and the checks that it follows from."""

    outcome: Outcome
    reasons: tuple[str, ...]
    checks: tuple[Check, ...] = ()

    @property
    def exit_code(self) -> int:
        undecided = [check for check in self.checks if check.outcome == INCONCLUSIVE]
        if self.outcome == INCONCLUSIVE and undecided and all(check.only_times for check in undecided):
            return exit_codes.UNRELIABLE
        return EXIT_CODES[self.outcome]


def decide(comparison: Comparison, gate: GateConfig, speed: Speed | None = None) -> GateVerdict:
    """Decide whether a candidate passes, fails or leaves the gate inconclusive.

    It fails if anything is significantly worse and may exceed its limit; it passes if everything is shown to keep
    its limit; otherwise it is inconclusive. docs/regression.md gives the rules in full.
    """
    checks = (
        *(_accuracy(row, gate) for row in comparison.differences if row.p_holm is not None),
        *(_auc(row, gate) for row in comparison.separation),
        _cost(speed, gate),
    )
    outcome, reasons = _together(checks)
    if outcome == PASS:
        places = ", ".join(row.where for row in comparison.differences if row.is_overall)
        reasons = (f"overall accuracy is at most {margin(gate)} below the baseline's at {places}.",)
    return GateVerdict(outcome, reasons, checks)


def _together(checks: Iterable[Check]) -> tuple[Outcome, tuple[str, ...]]:
    """Return the worst outcome, and the reasons of the checks that have it."""
    checks = list(checks)
    outcomes = {check.outcome for check in checks}
    worst = FAIL if FAIL in outcomes else INCONCLUSIVE if INCONCLUSIVE in outcomes else PASS
    return worst, tuple(reason for check in checks if check.outcome == worst for reason in check.reasons)


def _accuracy(row: Difference, gate: GateConfig) -> Check:
    """Check the differences: any row can fail; only overall accuracy must be shown to keep the margin."""
    at = "-".join(filter(None, (row.strategy, row.budget))) or f"N={row.n}"
    name = f"accuracy[{row.tag}-{at}]"
    where = f"{row.tag} at {row.where}"
    interval = brackets(row.low, row.high, "+.2f").strip() or "(no interval)"
    if row.low > -gate.margin_points:
        return Check(name, PASS, (), row)
    if row.p_holm is not None and row.p_holm <= gate.alpha / 2:
        return Check(name, FAIL, (f"{where} is worse by {-row.difference:.2f} points {interval}.",), row)
    if not row.is_overall:
        return Check(name, PASS, (), row)
    reason = f"{where} differs by {row.difference:+z.2f} points {interval}{_too_few(row, gate)}."
    return Check(name, INCONCLUSIVE, (reason,), row)


def margin(gate: GateConfig) -> str:
    """Write the margin, as "1 point"."""
    return f"{gate.margin_points:g} point{'s' * (gate.margin_points != 1)}"


def _too_few(row: Difference, gate: GateConfig) -> str:
    if row.n_prompts < 2:
        return ": one prompt says nothing about how prompts vary"
    unseen = "; no loss can be seen with these prompts" if row.unseen else ""
    needed = row.prompts_needed or 0
    enough = f"; about {needed} prompts would show it" if needed > row.n_prompts else ""
    return f", which may be more than {margin(gate)} worse: too few prompts ({row.n_prompts}){unseen}{enough}"


def _auc(row: Separation, gate: GateConfig) -> Check:
    name = f"auc[{row.tag}]"
    significant = row.p_holm <= gate.alpha / 2
    if gate.auc_margin is None or not significant or row.baseline - row.candidate <= gate.auc_margin:
        return Check(name, PASS, (), row)
    reason = f"the AUC of {row.tag} falls from {row.baseline:.4f} to {row.candidate:.4f}."
    return Check(name, FAIL, (reason,), row)


def _cost(speed: Speed | None, gate: GateConfig) -> Check:
    """Check time and memory where they have a limit."""
    ratios = []
    if gate.max_time_ratio is not None:
        time = (speed.time_ratio, speed.time_low, speed.time_high) if speed else (None, None, None)
        ratios.append(_ratio("time", *time, gate.max_time_ratio, speed))
    if gate.max_memory_ratio is not None:
        # a count of bytes, not a sample: it has no interval
        memory = speed.memory_ratio if speed else None
        ratios.append(_ratio("memory", memory, memory, memory, gate.max_memory_ratio, speed))
    outcome, reasons = _together(ratios)
    undecided = [check for check in ratios if check.outcome == INCONCLUSIVE]
    only_times = bool(undecided) and all(check.only_times for check in undecided)
    return Check("cost", outcome, reasons, speed, only_times and outcome == INCONCLUSIVE)


def _ratio(
    name: str,
    ratio: float | None,
    low: float | None,
    high: float | None,
    limit: float,
    speed: Speed | None,
) -> Check:
    if ratio is None or low is None or high is None:
        why = f": all {speed.repeats} rounds were tainted ({speed.taint})" if speed and speed.tainted else ""
        reason = f"the {name} ratio has a limit of {limit:g}, but it was not measured{why}."
        return Check(name, INCONCLUSIVE, (reason,), speed, only_times=speed is not None)
    if low > limit:
        return Check(name, FAIL, (f"the {name} ratio is {ratio:.2f}, over the limit of {limit:g}.",), speed)
    if high > limit:
        reason = (
            f"the {name} ratio {ratio:.2f}{ratio_interval(low, high)} is too uncertain for the limit of {limit:g}; "
            "raise timing_repeats, or measure on a quiet machine."
        )
        return Check(name, INCONCLUSIVE, (reason,), speed, only_times=True)
    return Check(name, PASS, (), speed)
