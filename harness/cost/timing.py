"""How costs are measured: the `timing` block of a configuration, and its presets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from vhsbench.harness.common.registry import nearest
from vhsbench.harness.common.settings import Amount, AmountOrNone, CandidateCount, Seconds, Strict, Threads
from vhsbench.harness.cost.variants import VARIANTS

PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"repeats": 3, "warm_up": 1},
    "paper": {"repeats": 64, "min_seconds": 60.0},
    "mlperf": {"repeats": 1024, "min_seconds": 600.0, "timeout_s": 14400.0},
}


class TimingConfig(Strict):
    """How cells are measured. A preset sets what is not given, and nothing given may fall below it."""

    preset: Literal["smoke", "paper", "mlperf"] | None = None
    """smoke, paper or mlperf: sets what is not given, and nothing given may fall below it."""
    best_of_n: tuple[CandidateCount, ...] = (1, 2, 4, 8)
    """The N whose whole runs are timed, to check T(N)."""
    batch_sizes: tuple[Annotated[CandidateCount, Field(ge=2)], ...] = ()
    """Of batched runs, beside one candidate at a time."""
    repeats: Amount = 15
    """Rounds of every pipeline at least."""
    visits: Amount | None = None
    """Turns that a pipeline has; by default as many as repeats, or 3 where not all fit into memory at once."""
    min_seconds: Seconds = 0.0
    """Of timed rounds of every pipeline at least."""
    warm_up: AmountOrNone = 3
    """Rounds in a row that no longer beat the fastest by 5% before any count."""
    timeout_s: Annotated[Seconds, Field(gt=0)] = 3600.0
    """After which a pipeline is given up."""
    threads: Threads | None = None
    """CPU threads while measuring; by default as the run's."""
    variants: tuple[str, ...] = ()
    """Named speed-ups measured beside the plain pipeline (docs/performance.md)."""

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        preset = PRESETS.get(str(given.get("preset"))) if isinstance(given, dict) else None
        return {**preset, **given} if preset else given

    @model_validator(mode="after")
    def _not_below(self) -> TimingConfig:
        for key, floor in PRESETS.get(self.preset or "", {}).items():
            if getattr(self, key) < floor:
                raise ValueError(f"preset '{self.preset}' asks for {key} of at least {floor:g}")
        return self

    @field_validator("variants")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in VARIANTS:
                raise ValueError(f"unknown variant '{name}'; {nearest(name, sorted(VARIANTS))}")
        return names
