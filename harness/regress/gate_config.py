"""The configuration of the gate, gate.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, field_validator, model_validator

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
from vhsbench.harness.config.run import StrategyText
from vhsbench.harness.config.yaml_files import read
from vhsbench.harness.cost import plan, roofline
from vhsbench.harness.cost.cost_model import parse_budget
from vhsbench.harness.strategies.choose import Meaning

Ratio = Annotated[float, Field(gt=0, le=1e6)]


def _devices() -> list[str]:
    return [plan.PAPER, *roofline.devices()]


class GateConfig(Strict):
    """gate.yaml: the limits that a candidate must keep.

    budgets, such as "550ms" or "3TFLOP", add to best_of_n: each gives baseline and candidate the N that it affords
    them, by `costs`, a finished run's folder or a device ("a100-paper" for the published costs). A tolerance of null
    is the run's, or for a device the paper's 0.05. strategies are compared at each budget, with settings chosen on other prompts.
    alpha is the rate at which an equally good candidate may fail: half of it for overall accuracy at
    each N and overall AUC, half for the tasks'. An auc_margin of null only reports AUC. The two ratios are
    candidate over baseline; null only reports them. bootstrap has no effect: older files may have it.
    """

    best_of_n: tuple[CandidateCount, ...] = (4,)
    """The N at which baseline and candidate are compared."""
    budgets: tuple[str, ...] = ()
    """Such as [550ms, 3TFLOP]: each adds the N that it affords either of them."""
    costs: Annotated[str | None, Local(other=TAG, needed=False)] = None
    """What budgets go by: a finished run's folder, or a device such as a100-paper."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] | None = None
    """By which share a budget may be passed; by default the run's, for a device 0.05."""
    strategies: tuple[StrategyText, ...] = ()
    """Compared at each budget too, such as [cascade:vhs>mllm-clip]: the same one with either side's verifier in it."""
    meaning: Meaning = "hard"
    """Of a strategy's budget: hard, which no prompt may pass, or mean, which the average over prompts may not."""
    margin_points: Annotated[float, Field(ge=0, le=100)] = 1.0
    """A loss of overall accuracy that is tolerated, in points."""
    auc_margin: Annotated[float, Field(ge=0, le=1)] | None = 0.01
    """A loss of the area under the ROC curve that is tolerated; null only reports it."""
    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """How often an equally good candidate may fail: half for overall accuracy and AUC, half for the tasks'."""
    bootstrap: Annotated[Amount, Field(ge=100)] = 2000
    """Has no effect; older files may have it."""
    permutations: Annotated[Amount, Field(ge=99)] = 9999
    """Random exchanges of the sign-flip tests."""
    auc_permutations: Annotated[Amount, Field(ge=99)] = 1999
    """Of the tests of AUC."""
    seed: Seed = 0
    """Of these exchanges."""
    max_time_ratio: Ratio | None = None
    """Candidate over baseline, time of a candidate; null only reports it."""
    max_memory_ratio: Ratio | None = None
    """The same of peak memory."""
    timing_batch: CandidateCount = 1
    """Candidates scored at once while both are timed."""
    timing_repeats: AmountOrNone = 30
    """Repeats of that; 0 measures no times."""
    timing_warm_up: AmountOrNone = 3
    """Repeats before that do not count."""
    worst_picks: AmountOrNone = 6
    """How many changed picks the report shows."""
    device: Device = "cpu"
    """cpu, cuda, or cuda:1."""
    threads: Threads | None = None
    """CPU threads; by default as many as the machine has."""

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
        if costs not in (known := _devices()):
            close = nearest(costs, known)
            guess = f"; {close}" if close.endswith("?") else ""
            listed = ", ".join(sorted(known))
            raise ValueError(
                f"'{costs}' is neither a finished run's folder nor a known device ({listed}){guess}"
            )
        return costs

    @model_validator(mode="after")
    def _somewhere(self) -> GateConfig:
        if self.budgets and self.costs is None:
            raise ValueError("budgets need 'costs': a finished run, or a device such as 'a100-paper'")
        if self.strategies and (not self.budgets or self.costs in _devices()):
            raise ValueError(
                "strategies need 'budgets', and 'costs' that are a finished run: its stages price them"
            )
        if not (self.best_of_n or self.budgets):
            raise ValueError("give best_of_n or budgets; with neither there is nothing to compare")
        return self


def load_gate(path: Path | None) -> GateConfig:
    """Read gate.yaml; None is the default gate. Raises ConfigError naming the file and key."""
    return GateConfig() if path is None else read(path, GateConfig, "margin_points: 1.0")
