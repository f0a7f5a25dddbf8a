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
    best_of_n: tuple[CandidateCount, ...] = (1, 2, 4, 8)
    batch_sizes: tuple[
        Annotated[CandidateCount, Field(ge=2)], ...
    ] = ()  # of batched runs, beside one at a time
    repeats: Amount = 15
    visits: Amount | None = (
        None  # turns that a pipeline has; None: as many as repeats, or VISITS (see rounds.py)
    )
    min_seconds: Seconds = 0.0
    warm_up: AmountOrNone = 3
    timeout_s: Annotated[Seconds, Field(gt=0)] = 3600.0
    threads: Threads | None = None  # CPU threads while measuring; by default as the run's
    variants: tuple[str, ...] = ()

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
