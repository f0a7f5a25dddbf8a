"""The N that a budget affords every pipeline: from a run, from published timings, counted, or estimated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.registry import nearest
from vhsbench.harness.cost import roofline
from vhsbench.harness.cost.cost_model import TOLERANCE, CostModel, parse_budget

if TYPE_CHECKING:
    import pandas as pd

PAPER = "a100-paper"
WHAT = {"ms": "time", "TFLOP": "FLOPs", "GB": "memory", "J": "energy"}


class PlanError(VhsbenchError):
    """A plan that cannot be made; the message is one sentence for a user."""


@dataclass(frozen=True)
class Priced:
    """A pipeline and its cost models by unit; what is unknown is absent. `basis` names the source of each."""

    generator: str
    steps: int
    verifier: str  # "none" for plain generation
    variant: str
    models: dict[str, CostModel]
    basis: dict[str, str]
    error_percent: float | None = None  # of T(N), the worst against end-to-end runs
    tolerance: float = TOLERANCE  # by how much its run lets a budget be passed
    left_out: str = ""  # how many of its measured rows do not count, and why
    lost: dict[str, str] = field(default_factory=dict)  # units that are unknown because of such rows
    prompt: str = ""  # that costs were counted or measured with; "" where that is not known


@dataclass(frozen=True)
class Planned:
    """The answer for one pipeline and budget; `cost` is of `n` candidates.

    answer: "fits" with the largest n; "below one candidate"; "any N" where the cost does not grow;
    "unknown". n and cost are None in all but the first.
    """

    budget: str
    generator: str
    steps: int
    verifier: str
    variant: str
    answer: Literal["fits", "below one candidate", "any N", "unknown"]
    n: int | None
    cost: float | None
    unit: str
    basis: str
    note: str


def plan(
    pipelines: Sequence[Priced], budgets: Sequence[str], tolerance: float | None = None
) -> list[dict[str, Any]]:
    """Make one row per budget and pipeline; `tolerance` stands for the pipelines' own.

    Raises ValueError for what is no budget.
    """
    parsed = [(text, *parse_budget(text)) for text in budgets]
    return [
        asdict(_answer(p, text, value, unit, p.tolerance if tolerance is None else tolerance))
        for text, value, unit in parsed
        for p in pipelines
    ]


def _answer(p: Priced, text: str, value: float, unit: str, tolerance: float) -> Planned:
    def planned(answer: Any, n: int | None = None, note: str = "") -> Planned:
        cost = model.predict(n) if model and n is not None else None
        basis = p.basis.get(unit, "")
        return Planned(
            text, p.generator, p.steps, p.verifier, p.variant, answer, n, cost, unit, basis, note
        )  # fmt: skip

    model = p.models.get(unit)
    if model is None:
        why = f": {p.lost[unit]}" if unit in p.lost else ""
        return planned("unknown", note=f"{WHAT[unit]} not known{why}")
    if model.predict(1) > value * (1 + tolerance) * (1 + 1e-12):
        return planned("below one candidate", note=f"one candidate costs {model.predict(1):.4g} {unit}")
    if p.verifier == "none":
        return planned("fits", 1, "no choice without a verifier")
    if model.per_candidate == 0:
        return planned("any N", note=f"{WHAT[unit]} does not grow with N")
    return planned("fits", model.largest_n(value, tolerance))


def from_run(path: Path) -> list[Priced]:
    """Price the pipelines of a finished run, as measured. Raises StoreError for what is no run."""
    from vhsbench.harness.cost.rounds import cell_name
    from vhsbench.harness.cost.variants import LOOPS
    from vhsbench.harness.store.keys import CELL, distinct, of_pool
    from vhsbench.harness.store.tables import load_costs

    costs, info = load_costs(path)
    tolerance = tolerance_of(path, info)
    cells = info.get("cells", {})
    found = []
    pipelines = (costs["batch"] == 1) & ~costs["variant"].isin(LOOPS)
    for generator, steps, verifier, variant in distinct(costs[pipelines], CELL):
        rows = of_pool(costs, generator, steps)
        # one that failed has no cell, and so is of unknown cost
        cell = cells.get(cell_name(generator, steps, verifier, variant), {})
        found.append(_priced(rows[rows["variant"] == variant], verifier, cell, tolerance))
    return found


def tolerance_of(path: Path, info: dict[str, Any]) -> float:
    """Return the run's own tolerance; the paper's for a benchmark of costs, whose configuration has none."""
    from vhsbench.harness.store.tables import StoreError

    config = info["config"]
    said = config.get("tolerance", TOLERANCE) if isinstance(config, dict) else None
    if not isinstance(said, int | float) or not 0 <= said < 1:
        raise StoreError(f"{path}/run.json is damaged: its config has no tolerance from 0 to 1.")
    return float(said)


def _priced(pool: pd.DataFrame, verifier: str, cell: dict[str, Any], tolerance: float) -> Priced:
    """Price one pipeline by the rows of its pool and variant.

    `cell` is its entry in run.json, empty if it was not measured.
    """
    from vhsbench.harness.cost import budgets as budgeting
    from vhsbench.harness.cost.sound import left_out, sound

    costs = pool[pool["verifier"] == verifier]
    why, costs = left_out(costs), sound(costs)
    first = costs.iloc[0]
    variant, needs = str(first["variant"]), cell.get("needs")
    device = next(iter(costs["device"].dropna()), "")
    models, basis = {}, {}
    lost = {} if cell or not why else dict.fromkeys(WHAT, why)
    for unit in WHAT if cell else ():
        try:
            models[unit] = budgeting.fit_unit(pool, verifier, needs, unit, variant)
        except budgeting.UnmeasuredError as error:
            lost |= {unit: error.why} if error.why else {}
            continue
        basis[unit] = "counted" if unit == "TFLOP" else f"measured on {device}"
        if unit == "GB":
            on_gpu = budgeting.memory_column(pool, verifier, variant) == "peak_vram_gb"
            basis[unit] = f"peak {'VRAM' if on_gpu else 'resident set'} {basis[unit]}"
    errors = (
        budgeting.check(costs, verifier, models["ms"], variant)["error_percent"].abs().dropna().tolist()
        if "ms" in models
        else []
    )
    return Priced(
        str(first["generator"]), int(first["steps"]), verifier or "none", variant, models, basis,
        max(errors, default=None), tolerance, why, lost, str(cell.get("prompt", "")),
    )  # fmt: skip


def from_device(
    name: str, units: Sequence[str], only_generators: Sequence[str] = (), prompt: str | None = None
) -> list[Priced]:
    """Price pipelines on a device that is not here: `a100-paper` as published, any other by its roofline.

    FLOPs are counted for `prompt`, by default `counting.usual_prompt`, and only if `units` asks for them or
    the roofline needs them. Raises DeviceError for an unknown device, PlanError for a generator of which nothing was
    published.
    """
    from vhsbench.results.readers import a100_timings

    table = a100_timings()
    published = list(table.itertuples(index=False))
    if name == PAPER:
        if unknown := sorted(set(only_generators) - set(table["generator"])):
            raise PlanError(
                f"no timing of '{unknown[0]}' was published; {nearest(unknown[0], sorted(set(table['generator'])))}"
            )
        return [
            _published(row, "TFLOP" in units, prompt)
            for row in published
            if not only_generators or row.generator in only_generators
        ]
    sheet = roofline.device(name, also=(PAPER,))
    kinds = ("none", "vhs", "mllm-clip", "mllm-ae")
    return [_estimated(g, v, sheet, prompt) for g in (only_generators or ("sana-sprint",)) for v in kinds]


def _published(row: Any, with_flops: bool, prompt: str | None) -> Priced:
    models = {"ms": CostModel(1e3 * row.fixed_s, 1e3 * row.per_candidate_s)}
    basis = {"ms": "published, A100"}
    counted_with = ""
    if with_flops:
        from vhsbench.harness.cost.counting import count_pipeline

        verifier = None if row.verifier == "none" else row.verifier
        counted = count_pipeline(row.generator, verifier, row.steps, prompt)
        models["TFLOP"], basis["TFLOP"], counted_with = counted.tflop, "counted", counted.prompt
    return Priced(row.generator, row.steps, row.verifier, "", models, basis, prompt=counted_with)


def _estimated(generator: str, verifier: str, sheet: roofline.Device, prompt: str | None) -> Priced:
    from vhsbench.harness.cost.counting import count_pipeline

    counted = count_pipeline(generator, None if verifier == "none" else verifier, prompt=prompt)
    models = {"ms": counted.bound_ms(sheet), "TFLOP": counted.tflop}
    basis = {"ms": f"{roofline.LABEL} (roofline of {sheet.name})", "TFLOP": "counted"}
    return Priced(generator, counted.steps, verifier, "", models, basis, prompt=counted.prompt)
