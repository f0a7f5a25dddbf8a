"""The gate: its configuration, and the verdict on a comparison."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from vhsbench.harness.common import exit_codes
from vhsbench.harness.common.registry import nearest
from vhsbench.harness.common.settings import (
    TAG,
    Amount,
    AmountOrNone,
    CandidateCount,
    Device,
    Local,
    Seed,
    Strict,
    Threads,
)
from vhsbench.harness.config.yaml_files import read
from vhsbench.harness.cost.cost_model import parse_budget
from vhsbench.harness.stats.intervals import brackets

if TYPE_CHECKING:
    from vhsbench.harness.regress.compare import Comparison, Difference
    from vhsbench.harness.regress.speed import Speed

Ratio = Annotated[float, Field(gt=0, le=1e6)]
Outcome = Literal["pass", "fail", "inconclusive"]
PASS: Outcome = "pass"
FAIL: Outcome = "fail"
INCONCLUSIVE: Outcome = "inconclusive"
EXIT_CODES: dict[Outcome, int] = {
    PASS: exit_codes.DONE,
    FAIL: exit_codes.FAILURES,
    INCONCLUSIVE: exit_codes.INCONCLUSIVE,
}


class GateConfig(Strict):
    """gate.yaml: what a candidate must keep.

    budgets, as "550ms" or "3TFLOP", give baseline and candidate the N that each affords, by `costs`: a
    finished run's folder, or a device ("a100-paper" for what was published). They come beside best_of_n.
    tolerance null is that of the run, or of a device the paper's 0.05.
    alpha is the rate at which an equally good candidate may fail: half of it for overall accuracy at
    each N and overall AUC, half for the tasks'. auc_margin null only reports AUC. The two ratios are
    candidate over baseline; null only reports them. bootstrap has no effect: older files may have it.
    """

    best_of_n: tuple[CandidateCount, ...] = (4,)
    budgets: tuple[str, ...] = ()
    costs: Annotated[str | None, Local(other=TAG, needed=False)] = None
    tolerance: Annotated[float, Field(ge=0, lt=1)] | None = None
    margin_points: Annotated[float, Field(ge=0, le=100)] = 1.0
    auc_margin: Annotated[float, Field(ge=0, le=1)] | None = 0.01
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    bootstrap: Annotated[Amount, Field(ge=100)] = 2000
    permutations: Annotated[Amount, Field(ge=99)] = 9999
    auc_permutations: Annotated[Amount, Field(ge=99)] = 1999
    seed: Seed = 0
    max_time_ratio: Ratio | None = None
    max_memory_ratio: Ratio | None = None
    timing_batch: CandidateCount = 1
    timing_repeats: AmountOrNone = 30
    timing_warm_up: AmountOrNone = 3
    worst_picks: AmountOrNone = 6
    device: Device = "cpu"
    threads: Threads | None = None

    @field_validator("budgets")
    @classmethod
    def _are_budgets(cls, budgets: tuple[str, ...]) -> tuple[str, ...]:
        for text in budgets:
            parse_budget(text)
        return budgets

    @field_validator("costs")
    @classmethod
    def _are_known(cls, costs: str | None) -> str | None:
        if costs is None or "/" in costs or Path(costs).exists():
            return costs  # a run, read when its budgets are
        from vhsbench.harness.cost import plan, roofline

        if costs not in (known := [plan.PAPER, *roofline.devices()]):
            close = nearest(costs, known)
            guess = f"; {close}" if close.endswith("?") else ""
            listed = ", ".join(sorted(known))
            raise ValueError(f"'{costs}' is no finished run's folder and no known device ({listed}){guess}")
        return costs

    @model_validator(mode="after")
    def _somewhere(self) -> GateConfig:
        if self.budgets and self.costs is None:
            raise ValueError("budgets need 'costs': a finished run, or a device such as 'a100-paper'")
        if not (self.best_of_n or self.budgets):
            raise ValueError("give best_of_n or budgets; with neither there is nothing to compare at")
        return self


@dataclass(frozen=True)
class Verdict:
    """The outcome and why, each reason a sentence."""

    outcome: Outcome
    reasons: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.outcome]


def load_gate(path: Path | None) -> GateConfig:
    """Read gate.yaml; None is the default gate. Raises ConfigError naming the file and key."""
    return GateConfig() if path is None else read(path, GateConfig, "margin_points: 1.0")


def judge(comparison: Comparison, gate: GateConfig, speed: Speed | None = None) -> Verdict:
    """Fail, if anything is worse beyond chance and may be by more than is allowed; else pass, if all is
    shown to be within what is allowed; else inconclusive. docs/regression.md says it in full."""
    failures, doubts = [], []
    for row in comparison.differences:
        worse = row.p_holm is not None and row.p_holm <= gate.alpha / 2
        beyond = not row.low > -gate.margin_points
        if worse and beyond:
            failures.append(f"{_where(row)} is worse by {-row.difference:.2f} points {_interval(row)}.")
        elif beyond and row.is_overall:
            doubts.append(_doubt(row, gate))
    for auc in comparison.separation:
        if gate.auc_margin is None or not auc.p_holm <= gate.alpha / 2:
            continue
        if auc.baseline - auc.candidate > gate.auc_margin:
            failures.append(f"the AUC of {auc.tag} falls from {auc.baseline:.4f} to {auc.candidate:.4f}.")
    for what, ratio, limit in _ratios(speed, gate):
        if ratio is None:
            why = (
                f": all {speed.repeats} rounds were tainted ({speed.taint})"
                if speed and speed.tainted
                else ""
            )
            doubts.append(f"the {what} ratio has a limit of {limit:g}, but it was not measured{why}.")
        elif ratio[1] > limit:
            failures.append(f"the {what} ratio is {ratio[0]:.2f}, over the limit of {limit:g}.")
        elif ratio[2] > limit:
            doubts.append(
                f"the {what} ratio {ratio[0]:.2f} [{ratio[1]:.2f}, {ratio[2]:.2f}] cannot be told from the "
                f"limit of {limit:g}; raise timing_repeats."
            )
    if failures:
        return Verdict(FAIL, tuple(failures))
    if doubts:
        return Verdict(INCONCLUSIVE, tuple(doubts))
    places = ", ".join(row.point.shown for row in comparison.differences if row.is_overall)
    return Verdict(
        PASS,
        (f"overall accuracy is at most {gate.margin_points:g} points below the baseline's at {places}.",),
    )


def _ratios(
    speed: Speed | None, gate: GateConfig
) -> list[tuple[str, tuple[float, float, float] | None, float]]:
    """(what, (ratio, low, high) or None if not measured, limit) of what has a limit."""
    found: list[tuple[str, tuple[float, float, float] | None, float]] = []
    if gate.max_time_ratio is not None:
        measured = None
        if (
            speed
            and speed.time_ratio is not None
            and speed.time_low is not None
            and speed.time_high is not None
        ):
            measured = (speed.time_ratio, speed.time_low, speed.time_high)
        found.append(("time", measured, gate.max_time_ratio))
    if gate.max_memory_ratio is not None:
        # a count of bytes, not a sample: it has no interval
        memory = (speed.memory_ratio,) * 3 if speed else None
        found.append(("memory", memory, gate.max_memory_ratio))  # type: ignore[arg-type]
    return found


def _doubt(row: Difference, gate: GateConfig) -> str:
    said = f"{_where(row)} differs by {row.difference:+.2f} points {_interval(row)}"
    if row.n_prompts < 2:
        return f"{said}: one prompt says nothing of how prompts vary."
    more = f"; about {row.prompts_needed} prompts would show it" if row.prompts_needed else ""
    return f"{said}, which may be more than {gate.margin_points:g} points worse: too few prompts ({row.n_prompts}){more}."


def _where(row: Difference) -> str:
    return f"{row.tag} at {row.point.shown}"


def _interval(row: Difference) -> str:
    return brackets(row.low, row.high, "+.2f").strip() or "(no interval)"
