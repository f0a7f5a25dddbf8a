"""Strategies at equal cost: settings chosen on other prompts, accuracies of prompts held out, all paired."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from vhsbench.harness.cost.budgets import END_TO_END
from vhsbench.harness.cost.cost_model import CostError, CostModel
from vhsbench.harness.cost.stage_costs import StageCosts
from vhsbench.harness.cost.turns import quantiles
from vhsbench.harness.report.recorded import peak_gb
from vhsbench.harness.report.verdict import ALPHA, Contest
from vhsbench.harness.stats.intervals import Floats, brackets, clustered_mean, paired_difference
from vhsbench.harness.stats.paired import ROUNDING, family
from vhsbench.harness.store.keys import of_pipeline, sessions
from vhsbench.harness.strategies.base import Pools, Strategy
from vhsbench.harness.strategies.choose import Evaluated, Held, Meaning, choose, evaluate, folds
from vhsbench.harness.strategies.memory import of_its_own
from vhsbench.harness.strategies.prices import Prices, costs_for
from vhsbench.harness.strategies.registry import NotMadeAgain, Template, written

UNITS = ("ms", "TFLOP", "J")  # in which a stage has a cost
MEANINGS: tuple[Meaning, ...] = ("hard", "mean")
_FRONTIER = 25  # budgets
KEYS = ["budget", "unit", "meaning"]
TABLE = [*KEYS, "strategy", "setting", "chosen_percent", "settings_chosen", "accuracy", "low", "high", "cost",
         "cost_low", "cost_high", "median_cost", "p90_cost", "worst_cost", "peak_gb", "winner"]  # fmt: skip
FRONTIER = ["strategy", "budget", "setting", "n", "accuracy", "low", "high"]


@dataclass(frozen=True)
class _Priced:
    """A strategy's settings in one unit."""

    template: Template
    found: Evaluated
    prices: Prices

    def text(self, setting: Strategy) -> str:
        return written(self.template.name, self.template.kind, setting.verifiers, setting.values)


class _Pair(NamedTuple):
    """Two strategies, the more accurate first: difference in points, 95% interval, p and its Holm-corrected value."""

    better: str
    other: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    beats: bool


class Rivals:
    """The strategies of one pool of candidates: `templates`, and best-of-N by each verifier that they name.

    needs: what each verifier reads, those of hidden states in the order of their blocks. costs: the run's. memory: peaks in GB, by text
    (see recorded.peaks_gb). `unpriced` says which have no cost, and why.
    """

    def __init__(
        self,
        contest: Contest,
        needs: Mapping[str, str],
        costs: pd.DataFrame,
        templates: Sequence[Template],
        memory: Mapping[str, float],
    ) -> None:
        self._contest, self._needs, self._costs, self._memory = contest, needs, costs, memory
        named = dict.fromkeys(v for t in templates for v in t.verifiers)
        plain = [Template("best-of-n", (v,)) for v in named]
        self._templates = list({t.text: t for t in (*plain, *templates)}.values())
        grid = contest.grid
        self._pools = Pools(
            {v: contest.scores(v) for v in named}, grid.correct.astype(bool), contest.made_again
        )
        self._held_out = folds(contest.tags)
        self._priced: dict[str, list[_Priced]] = {}
        self.unpriced: list[str] = []

    def priced(self, unit: str) -> list[_Priced]:
        if unit not in self._priced:
            self._priced[unit] = [p for t in self._templates if (p := self._price(t, unit)) is not None]
        return self._priced[unit]

    def _price(self, template: Template, unit: str) -> _Priced | None:
        mine = costs_for(template.kind, self._costs, self._contest.generator, self._contest.steps)
        together = [part for part in sessions(mine) if {*template.verifiers} <= {*part["verifier"]}]
        if not together:
            self.unpriced.append(f"{template.text}: its verifiers were measured in different runs.")
            return None
        needs = {v: need for v, need in self._needs.items() if v in template.verifiers}
        prices = Prices(needs, StageCosts(together[0], unit))
        try:
            settings = template.settings(self._pools)
            found = evaluate(settings, self._pools, self._contest.grid.prompts, prices.cost)
        except NotMadeAgain as error:
            self.unpriced.append(str(error))
            return None
        except CostError as error:
            self.unpriced.append(f"{template.text}: {error}")
            return None
        return _Priced(template, found, prices)

    def table(
        self, budgets: Mapping[str, Sequence[float]], tolerance: float
    ) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Compare all strategies at every budget, hard and mean: columns TABLE, and all pairs."""
        rows, pairs = [], []
        for unit in UNITS:
            for budget in budgets.get(unit, ()):
                for meaning in MEANINGS:
                    key = (budget, unit, meaning)
                    held = self._held(unit, budget * (1 + tolerance), meaning)
                    mine = self._pairs(held)
                    beaten = {pair.other for pair in mine if pair.beats}
                    rows += [(*key, *self._row(p, h), p.template.text not in beaten) for p, h in held]
                    pairs += [(*key, *pair) for pair in mine]
        return pd.DataFrame(rows, columns=TABLE), pd.DataFrame(pairs, columns=[*KEYS, *_Pair._fields])

    def _held(self, unit: str, limit: float, meaning: Meaning) -> list[tuple[_Priced, Held]]:
        """Choose every strategy's settings, the most accurate strategy first; without those that the budget rules out."""
        found = [(p, h) for p in self.priced(unit) if (h := choose(p.found, limit, meaning, self._held_out))]
        return sorted(found, key=lambda pair: -pair[1].accuracy.mean())

    def _row(self, priced: _Priced, held: Held) -> tuple[object, ...]:
        usual = held.usual
        share = 100 * held.chosen[usual] / held.chosen.total()
        accuracy = self._overall(held.accuracy)
        return (
            priced.template.text, priced.text(usual), share, len(held.chosen), *accuracy,
            float(held.cost.mean()), *self._ends(priced, held), *self._spread(priced, usual), held.worst,
            self._peak_gb(priced.template),
        )  # fmt: skip

    def _ends(self, priced: _Priced, held: Held) -> tuple[float, float]:
        """Return the interval of the mean cost: as the usual setting's varies, where it draws as many on average."""
        usual, mean = held.usual, float(held.cost.mean())
        one, most = (priced.prices.cost(usual, n) for n in (1, usual.n))
        first, last = (priced.prices.draws(usual, n) for n in (1, usual.n))
        if first is None or last is None:
            return math.nan, math.nan
        share = float(np.clip((mean - one) / (most - one), 0, 1)) if most > one else 1.0
        low, high = quantiles(((1 - share) * first + share * last) / ((1 - share) * one + share * most))
        return mean * low, mean * high

    def _spread(self, priced: _Priced, setting: Strategy) -> tuple[float, float]:
        """Return the median and the 90th percentile of a prompt's cost with this setting."""
        drawn = setting.expected(self._pools).drawn
        if drawn is None:
            value = priced.prices.cost(setting, setting.n)
            return value, value
        each = np.array([priced.prices.cost(setting, n) for n in range(1, setting.n + 1)])
        last = np.searchsorted(np.cumsum(drawn.mean(0)) + 1e-12, [0.5, 0.9])  # of the draws' numbers
        median, p90 = (float(each[min(i, len(each) - 1)]) for i in last)
        return median, p90

    def _peak_gb(self, template: Template) -> float:
        """Return the peak memory in GB of its largest run that was measured; NaN where none was."""
        if of_its_own(template.kind):
            return self._memory.get(template.text, math.nan)
        contest = self._contest
        rows = of_pipeline(self._costs, contest.generator, contest.steps, template.verifiers[0])
        return peak_gb(rows[(rows["stage"] == END_TO_END) & (rows["batch"] == 1)])

    def _pairs(self, held: Sequence[tuple[_Priced, Held]]) -> list[_Pair]:
        pairs = [
            ((a.template.text, x.accuracy), (b.template.text, _or_equal(y.accuracy, x.accuracy)))
            for (a, x), (b, y) in combinations(held, 2)
        ]
        if not pairs:
            return []
        found = []
        tested = family([x - y for (_, x), (_, y) in pairs])
        for ((a, x), (b, y)), alone, corrected in zip(pairs, *tested, strict=True):
            largest = 0.0 if x is y else 1.0
            gap = paired_difference(x, y, largest=largest, tasks=self._contest.tags)
            mean, low, high = gap.percent
            beats = bool(corrected < ALPHA and low > 0)
            found.append(_Pair(a, b, mean, low, high, float(alone), float(corrected), beats))
        return found

    def frontier(self) -> pd.DataFrame:
        """Follow every strategy over hard time budgets, from the cheapest setting of any to the whole pool: columns FRONTIER."""
        priced = self.priced("ms")
        if not priced:
            return pd.DataFrame(columns=FRONTIER)
        least = min(float(p.found.hard.min()) for p in priced)
        most = max(float(p.found.hard.max()) for p in priced)
        rows = []
        for budget in np.geomspace(least, most, _FRONTIER):
            for one in priced:
                held = choose(one.found, float(budget), "hard", self._held_out)
                if held is not None:
                    usual = held.usual
                    shown = (one.template.text, float(budget), one.text(usual), usual.n)
                    rows.append((*shown, *self._overall(held.accuracy)))
        return pd.DataFrame(rows, columns=FRONTIER)

    def _overall(self, accuracy: Floats) -> tuple[float, float, float]:
        return clustered_mean(accuracy, tasks=self._contest.tags).percent


def rivals(
    contest: Contest,
    needs: Mapping[str, str],
    models: Mapping[str, CostModel],
    costs: pd.DataFrame,
    templates: Sequence[Template],
    memory: Mapping[str, float],
) -> Rivals | None:
    """Return the strategies whose verifiers all scored the pool and have a time; None if there are none."""
    here = {v: need for v, need in needs.items() if v in models and contest.has(v)}
    mine = [t for t in templates if here.keys() >= set(t.verifiers)]
    return Rivals(contest, here, costs, mine, memory) if mine else None


def tabulate(
    pools: Mapping[tuple[str, int], Rivals], budgets: Mapping[str, Sequence[float]], tolerance: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Put the tables of every pool together; see Rivals.table."""
    parts = [
        [frame.assign(generator=pool[0], steps=pool[1]) for frame in each.table(budgets, tolerance)]
        for pool, each in pools.items()
    ]
    if not parts:
        return pd.DataFrame(), pd.DataFrame()
    rows, pairs = (pd.concat(frames, ignore_index=True) for frames in zip(*parts, strict=True))
    return rows, pairs


def _or_equal(values: Floats, others: Floats) -> Floats:
    """Return `others` in place of values that differ from them by rounding alone, as those of one setting in two strategies."""
    return others if np.allclose(values, others, rtol=0, atol=ROUNDING) else values


def sentences(rows: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """Say for each budget and meaning whether a strategy is ahead of the best best-of-N. rows, pairs: of one pool."""
    found = []
    for (budget, unit, meaning), here in rows.groupby(KEYS, sort=False):
        where = f"{budget:.4g} {unit} {'for every prompt' if meaning == 'hard' else 'on average'}"
        plain = here[here["strategy"].str.startswith("best-of-n:")]
        first = here.iloc[0]  # the most accurate
        if plain.empty:
            continue
        other = plain.iloc[0]
        if first["accuracy"] - other["accuracy"] <= 100 * ROUNDING:
            found.append(f"{where}: no strategy is ahead of {other['setting']} ({other['accuracy']:.1f}%).")
            continue
        key = (pairs[KEYS] == [budget, unit, meaning]).all(axis=1)
        pair = pairs[
            key & (pairs["better"] == first["strategy"]) & (pairs["other"] == other["strategy"])
        ].iloc[0]
        sure = "ahead" if pair["beats"] else "ahead, not told apart,"
        found.append(
            f"{where}: {first['setting']} {first['accuracy']:.1f}%, {pair['difference']:z.1f} points"
            f"{brackets(pair['low'], pair['high'])} {sure} of {other['setting']} (p = {pair['p_holm']:.2g})."
        )
    return found
