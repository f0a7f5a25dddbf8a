"""All numbers of a report, derived from a run's tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from vhsbench.harness.config.run import RunConfig, kept_config
from vhsbench.harness.cost import budgets as budgeting
from vhsbench.harness.cost.cost_model import CostModel
from vhsbench.harness.cost.reliability import unreliable
from vhsbench.harness.cost.sound import left_out
from vhsbench.harness.report import comparisons, scaling
from vhsbench.harness.report.clock import COLUMNS, Clock, Models, as_unmoved, default_budgets, read_clock
from vhsbench.harness.report.comparisons import TIMES, AccuracyTable
from vhsbench.harness.report.costs import cost_table, with_first_use
from vhsbench.harness.report.diversity import COLUMNS as DIVERSITY
from vhsbench.harness.report.diversity import clip_of, diversity
from vhsbench.harness.report.judged import judged
from vhsbench.harness.report.over_optimisation import OverOptimisation, over_optimisation
from vhsbench.harness.report.people import People, about_stale, read_people
from vhsbench.harness.report.recorded import (
    about_machines,
    failed_prompts,
    peaks_gb,
    printable_run,
    recorded_needs,
)
from vhsbench.harness.report.standings import Standings, shown, standings
from vhsbench.harness.report.strategies import Rivals, rivals, sentences, tabulate
from vhsbench.harness.report.style import Looks, looks, pool_prefix
from vhsbench.harness.report.tables import LaidOut
from vhsbench.harness.report.verdict import Contest
from vhsbench.harness.stats.curves import OVERALL, accuracy_curves, separation
from vhsbench.harness.stats.intervals import missed_share
from vhsbench.harness.store.keys import POOL, RUN, distinct, measured_with, of_pool
from vhsbench.harness.store.tables import Run, StoreError
from vhsbench.harness.strategies.prices import in_order
from vhsbench.harness.strategies.registry import Template, parse
from vhsbench.harness.sweep.kept_images import Pictures
from vhsbench.harness.sweep.protocol import Protocol, of_run


@dataclass(frozen=True)
class Derived:
    """A run and the numbers derived from it.

    run: with printable texts; its costs are the clock's, without named speed-ups. clock: whose times budgets go by.
    failed: pools that are in no table, with prompts and reasons. needs: what each verifier reads. budgets: in ms.
    budget_rows: the N that each budget affords, with its accuracies; priced: the times that they go by.
    protocol: what decides what the accuracies mean.
    templates: the strategies to compare. with_diversity: whether CLIP looks at the winners.
    """

    run: Run
    config: RunConfig
    clock: Clock
    failed: pd.DataFrame
    needs: dict[str, str | None]
    curves: pd.DataFrame
    budgets: list[float]
    budget_rows: pd.DataFrame
    priced: Models
    protocol: Protocol
    templates: tuple[Template, ...] = ()
    with_diversity: bool = False

    @property
    def models(self) -> dict[str, Models]:
        """The cost models by column ("wall_ms", "tflop") and pipeline."""
        return self.clock.models

    @property
    def unmeasured(self) -> list[str]:
        """Why a pipeline has no cost model."""
        return self.clock.unmeasured

    @property
    def times(self) -> str:
        """Whose times these are, as "times: published, A100"; "" for the run's own."""
        return f"times: {self.clock.label}" if self.clock.label else ""

    @property
    def has_costs(self) -> bool:
        """Whether there are measured rows, not models alone."""
        return not self.clock.costs.empty

    @cached_property  # every row of the page uses it
    def pools(self) -> list[tuple[str, int]]:
        """The (generator, steps) of the run's pools of candidates."""
        return [(generator, steps) for generator, steps in distinct(self.run.candidates, POOL)]

    @cached_property
    def pictures(self) -> Pictures:
        return Pictures(self.run)

    @cached_property
    def people(self) -> People | None:
        """What people's answers say; None without answers."""
        return read_people(self.run)

    @property
    def names(self) -> dict[str, str]:
        """The registered name of each generator as shown."""
        return {entry.shown: entry.name for entry in self.config.generators}

    @cached_property
    def looks(self) -> Looks:
        """The colour and marker of each verifier, by its place in the run."""
        return looks(self.config.kinds)

    @property
    def left_out(self) -> str:
        """How many rows of costs were left out, and why."""
        return left_out(self.clock.costs)

    @property
    def notes(self) -> list[str]:
        """Sentences about what a reader should know of the run and its tables."""
        about = "accuracies are this run's"
        if RUN in self.clock.costs:
            about = "a change of the machine between them is in their differences, and in no interval"
        times = [f"{self.times}; {about}."] if self.times else []
        return [*times, *self.about_data, *self._about_intervals()]

    @property
    def about_data(self) -> list[str]:
        """Sentences about data that are missing, unchecked, or made on different machines."""
        return [
            *self.run.notes,
            *self.pictures.notes(),
            *about_machines(self.run),
            *about_stale(self.run),
        ]

    def labelled(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Add a column that says whose times the rows have, if they are not the run's own."""
        return _labelled(frame, self.clock)

    def _about_intervals(self) -> list[str]:
        """Say what the tables' intervals do not cover."""
        found = []
        if lone := list(dict.fromkeys(self.curves.loc[self.curves["n_prompts"] == 1, "tag"])):
            found.append(f"no interval of {', '.join(lone)}: one prompt says nothing about how prompts vary.")
        if any("delta" in table.rows for table in self.tables):
            n = int(self.curves["n_prompts"].max())
            found.append(
                f"{n} prompts may hold none of a kind that is {100 * missed_share(n):.1f}% of all; where verifiers "
                "differ on that kind alone, no interval of a difference shows it."
            )
        return found

    def models_of(self, generator: str, steps: int, column: str = "wall_ms") -> dict[str, CostModel]:
        """Select the cost models of one pool by verifier, without "none"."""
        found = self.models[column].items()
        return {v: model for (g, s, v), model in found if (g, s) == (generator, steps) and v != "none"}

    def costs_of(self, generator: str, steps: int) -> pd.DataFrame:
        """Select the cost rows of one pool."""
        return of_pool(self.run.costs, generator, steps)

    def breakdown(self, generator: str, steps: int) -> pd.DataFrame:
        """Tabulate the median time that each candidate and that only the winner takes: verifier, part, stage, wall_ms.

        No rows where only models were published.
        """
        rows = []
        for verifier in self.models_of(generator, steps) if self.has_costs else ():
            costs = measured_with(self.run.costs, generator, steps, verifier)
            parts = budgeting.breakdown(costs, verifier, self.needs[verifier])
            rows += [(verifier, part, *stage) for part, stages in parts.items() for stage in stages.items()]
        return pd.DataFrame(rows, columns=["verifier", "part", "stage", "wall_ms"])

    @cached_property
    def tables(self) -> list[AccuracyTable]:
        """The paper's comparisons that the run has rows for."""
        moved = [entry.shown for entry in self.config.generators if entry.moved]
        settled = self.budget_rows[~self.budget_rows["generator"].isin(moved)].reset_index(drop=True)
        still = {
            column: {key: model for key, model in found.items() if key[0] not in moved}
            for column, found in self.models.items()
        }
        found = [
            comparisons.main_comparison(settled),
            *self._by_other_units(still),
            comparisons.other_generators(settled),
            comparisons.scoring_ablation(
                self.run, self.curves, still["wall_ms"], self.budgets, self.config.tolerance
            ),
            comparisons.drift(self.budget_rows, _drifts(self.config), self.run, self.config.kinds),
        ]
        return [self._with_label(table) for table in found if table is not None]

    def _by_other_units(self, models: dict[str, Models]) -> list[AccuracyTable]:
        """Lay out the main comparison in each unit other than time in which the configuration has budgets."""
        rows = self._rows_by_other_units(models)
        return [comparisons.main_comparison(found, unit) for unit, found in rows.items()]

    def _rows_by_other_units(self, models: dict[str, Models]) -> dict[str, pd.DataFrame]:
        return {
            unit: budgeting.budget_table(self.curves, known, budgets, self.config.tolerance, unit)
            for unit, budgets in self.config.budgets_by_unit.items()
            if unit != "ms" and (known := models.get(COLUMNS[unit]))
        }

    @cached_property
    def contests(self) -> dict[tuple[str, int], Contest]:
        """The pipelines of every pool, by prompt."""
        return {pool: Contest(self.run, *pool) for pool in self.pools}

    @cached_property
    def standings(self) -> Standings:
        """Who wins at each budget, of every kind."""
        rows = {"ms": self.budget_rows} | self._rows_by_other_units(self.models)
        models = {unit: self.priced if unit == "ms" else self.models[COLUMNS[unit]] for unit in rows}
        return standings(self.contests, rows, models, self.config.tolerance)

    @property
    def verdict_table(self) -> LaidOut:
        """The verdicts as a table."""
        verdicts = self.standings.verdicts
        return LaidOut(self.labelled(verdicts), self.labelled(shown(verdicts, len(self.pools) > 1)))

    @cached_property
    def judged(self) -> pd.DataFrame:
        """What each judge makes of best-of-N; empty where accuracies say it all."""
        return self.labelled(judged(self.run, self.config))

    @cached_property
    def over_optimisation(self) -> OverOptimisation | None:
        """What choosing does to verifiers' own scores and to judges' values; None where nothing is chosen."""
        return over_optimisation(self.run, self.config)

    @cached_property
    def diversity(self) -> pd.DataFrame:
        """How different winners are; no rows unless asked for."""
        if not self.with_diversity:
            return pd.DataFrame(columns=DIVERSITY)
        return diversity(self.run, self.pictures, lambda shown: clip_of(self.names[shown]))

    @cached_property
    def area(self) -> pd.DataFrame:
        """Accuracy averaged over log time, of every pool."""
        return self._by_pool(lambda pool, models: scaling.area_over_log_time(self.contests[pool], models))

    @cached_property
    def time_to_accuracy(self) -> pd.DataFrame:
        """The time in which each verifier reaches round accuracies, of every pool."""
        overall = self.curves[self.curves["tag"] == OVERALL]
        return self._by_pool(lambda pool, models: scaling.time_to_accuracy(of_pool(overall, *pool), models))

    @cached_property
    def rivals(self) -> dict[tuple[str, int], Rivals]:
        """The strategies of every pool whose stages were measured here and that their verifiers scored."""
        if not self.has_costs:
            return {}
        needs = in_order({v: str(need) for v, need in self.needs.items()}, self.run.info.get("blocks", {}))
        found = {
            pool: rivals(
                self.contests[pool],
                needs,
                self.models_of(*pool),
                self.run.costs,
                self.templates,
                {} if self.times else peaks_gb(self.run, *pool),
            )
            for pool in self.pools
        }
        return {pool: each for pool, each in found.items() if each is not None}

    @cached_property
    def strategies(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """All strategies at every budget in a unit that stages have a cost in, and all pairs of them."""
        rows, pairs = tabulate(
            self.rivals, self.config.budgets_by_unit | {"ms": self.budgets}, self.config.tolerance
        )
        return self.labelled(rows), self.labelled(pairs)

    @property
    def strategy_sentences(self) -> list[str]:
        """Whether a strategy is ahead of best-of-N, at every budget of every pool."""
        rows, pairs = self.strategies
        said = {pool: sentences(of_pool(rows, *pool), of_pool(pairs, *pool)) for pool in self.rivals}
        return [pool_prefix(pool, self.pools) + line for pool, lines in said.items() for line in lines]

    def _by_pool(
        self, derive_one: Callable[[tuple[str, int], dict[str, CostModel]], pd.DataFrame]
    ) -> pd.DataFrame:
        parts = [
            derive_one(pool, self.models_of(*pool)).assign(generator=pool[0], steps=pool[1])
            for pool in self.pools
        ]
        whole = pd.concat(parts, ignore_index=True)
        return self.labelled(whole[[*POOL, *(c for c in whole.columns if c not in POOL)]])

    def _with_label(self, table: AccuracyTable) -> AccuracyTable:
        if not self.times or table.name == "budgets_tflop":  # FLOPs are counted, on whatever device
            return table
        rows, title = self.labelled(table.rows), f"{table.title}; {self.times}"
        return replace(table, rows=rows, title=title, keys=(*table.keys, TIMES))

    @cached_property
    def headline(self) -> pd.DataFrame:
        """Every VHS against every MLLM w/ CLIP, for every pool on which both were measured."""
        frames = [
            comparisons.headline(*pool, self.models, self.budget_rows, self._peak_vram(*pool), pair)
            for pool in self.pools
            for pair in comparisons.rivals(self.config.kinds, self.models_of(*pool))
        ]
        columns = [*POOL, "key", "about", "unit", "measured", "low", "high"]
        found = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)
        rows = self.labelled(found)
        if self.times:  # FLOPs are counted, on whatever device
            rows[TIMES] = rows[TIMES].mask(rows["key"] == "tflop_per_candidate", "")
        return rows

    def _peak_vram(self, generator: str, steps: int) -> dict[str, float]:
        """Find the peak VRAM (GB) of whole best-of-N runs by verifier; empty where none was measured."""
        here = self.costs_of(generator, steps)
        peaks = here[here["stage"] == budgeting.END_TO_END].groupby("verifier")["peak_vram_gb"].max()
        return {str(verifier): float(peak) for verifier, peak in peaks.dropna().items()}

    @cached_property
    def latency(self) -> pd.DataFrame:
        """T(N) of every pipeline against measured best-of-N runs; no rows where only models were published."""
        if not self.has_costs:
            return pd.DataFrame()
        checks = []
        for (generator, steps, verifier), model in self.models["wall_ms"].items():
            name = "" if verifier == "none" else verifier
            here = measured_with(self.run.costs, generator, steps, name)
            rows = budgeting.check(here, name, model)
            checks.append(rows.assign(generator=generator, steps=steps, verifier=verifier))
        return self.labelled(pd.concat(checks, ignore_index=True))

    @cached_property
    def unreliable(self) -> list[str]:
        """Reasons not to trust the measured times."""
        return unreliable(self.clock.costs, self.needs)

    @cached_property
    def costs(self) -> pd.DataFrame:
        """The table of every stage's costs; no rows where only models were published."""
        if not self.has_costs:
            return pd.DataFrame()
        return self.labelled(with_first_use(cost_table(self.clock.costs), self.clock.cells))

    @cached_property
    def auc(self) -> pd.DataFrame:
        """The area under every verifier's ROC curve."""
        return separation(self.run.candidates, self.run.scores)


def derive(
    run: Run, costs_from: str = "", strategies: Sequence[str] = (), with_diversity: bool = False
) -> Derived:
    """Derive a report's numbers; times and FLOPs are of `costs_from` (see `read_clock`), by default the run's own.

    strategies: as text, more than the configuration has. with_diversity: let CLIP look at the winners.

    Raises StoreError if no pipeline has a time, or all prompts failed, and StrategyError.
    """
    protocol = of_run(run)  # of its prompts as they are
    run = printable_run(run)
    config = kept_config(run)
    failed = failed_prompts(run)
    if run.candidates.empty:
        reason = failed["reason"].iloc[0] if len(failed) else "it has no rows"
        raise StoreError(f"the run in {run.path} has no candidates to report on: {reason.rstrip('.')}.")
    curves = accuracy_curves(run.candidates, run.scores)
    needs = recorded_needs(run, config)
    clock = read_clock(run, config, needs, costs_from)
    # the paper's comparison has no named speed-ups
    run = replace(run, costs=clock.costs[clock.costs["variant"] == ""])
    times = clock.models["wall_ms"]
    priced = times | as_unmoved(times, config)
    budgets = config.budgets_by_unit.get("ms") or default_budgets(priced, config)
    rows = budgeting.budget_table(curves, priced, budgets, config.tolerance)
    templates = tuple(parse(text) for text in dict.fromkeys((*config.strategies, *strategies)))
    return Derived(
        run,
        config,
        clock,
        failed,
        needs,
        curves,
        budgets,
        _labelled(rows, clock),
        priced,
        protocol,
        templates,
        with_diversity,
    )


def _labelled(frame: pd.DataFrame, clock: Clock) -> pd.DataFrame:
    return frame.assign(**{TIMES: clock.label}) if clock.label else frame


def _drifts(config: RunConfig) -> dict[str, float]:
    """Map the entries of every generator that drifts to how far each was moved."""
    drifting = {entry.name for entry in config.generators if entry.moved or entry.drift is not None}
    return {entry.shown: entry.moved for entry in config.generators if entry.name in drifting}
