"""Captions of a paper's figures and tables: n, seeds, intervals, budgets and device, so that each stands alone."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from vhsbench.harness.cost.cost_model import unit_of
from vhsbench.harness.report.comparisons import AccuracyTable
from vhsbench.harness.report.derived import Derived
from vhsbench.harness.report.tables import latex_escape

_INTERVALS = r"95\% intervals by prompt"
_COST = f"Numbers are $N$, bands {_INTERVALS}."
FIGURES = {
    "teaser": "Overall accuracy over the wall-clock time of best-of-$N$.",
    "accuracy_over_time": f"Overall accuracy over the wall-clock time of best-of-$N$. {_COST}",
    "accuracy_over_tflop": f"Overall accuracy over the floating-point operations of best-of-$N$, as counted. {_COST}",
    "accuracy_over_memory": f"Overall accuracy over the peak GPU memory of best-of-$N$. {_COST}",
    "n_per_budget": "How many candidates a time budget affords.",
    "accuracy_by_n": f"Accuracy over $N$ by task, between choosing at random and an oracle. Bands are {_INTERVALS}.",
    "latency_breakdown": "Median time of every stage, for each candidate and once for a prompt.",
    "score_distributions": r"Scores of all candidates, as shares in bins of 5\%, with boxes from the first to the third "
    "quartile.",
    "reliability": f"Share of right candidates over the probability of \\emph{{yes}}; bars are {_INTERVALS}, ECE is the "
    "expected calibration error.",
    "strategies": "Accuracy of strategies under a time that no prompt may pass, on prompts held out, and the $n$ chosen "
    "most often. Solid lines are best-of-$N$.",
    "over_optimisation": "How the winners' mean own score and judges' values change with $N$, in standard deviations of candidates. "
    f"Bands are {_INTERVALS}; a dotted line is where a judge parts from the own score.",
    "gallery": "What each verifier picks among the first candidates of a prompt, with its score, marked by the rules that judge.",
    "disagreements": "The surest verdicts of each verifier that the judge contradicts, with their scores.",
}  # fmt: skip
# whose numbers are times
_TIMED = (
    "teaser",
    "accuracy_over_time",
    "accuracy_over_memory",
    "n_per_budget",
    "latency_breakdown",
    "strategies",
)
_BUDGETED = ("accuracy_over_time", "n_per_budget", "strategies")


@dataclass(frozen=True)
class Facts:
    """What captions say of a run."""

    derived: Derived

    @property
    def sample(self) -> str:
        """The prompts, seeds, pool and protocol."""
        config = self.derived.config
        seeds = ", ".join(map(str, config.seeds))
        return (
            rf"$n = {len(self.derived.run.prompts)}$ prompts, seed{'s' if len(config.seeds) > 1 else ''} {seeds}, "
            rf"pool of {config.pool} candidates, protocol \texttt{{{self.derived.protocol.digest}}}."
        )

    @property
    def device(self) -> str:
        """Whose times they are."""
        if self.derived.times:
            return latex_escape(self.derived.times[0].upper() + self.derived.times[1:]) + "."
        devices = sorted({str(d) for d in self.derived.run.costs["device"].dropna()}) or ["an unknown device"]
        return f"Times were measured on {latex_escape(' and '.join(devices))}."

    @property
    def budgets(self) -> str:
        config = self.derived.config
        listed = ", ".join(f"{budget:g}" for budget in self.derived.budgets)
        return f"Budgets are {listed}\\,ms, up to {100 * config.tolerance:g}\\% above them."

    def figure(self, name: str, pool: str, claim: str = "") -> str:
        """Return the caption of a figure of a pool, named where the run has several; the claim is the teaser's."""
        said = [
            FIGURES[name],
            claim,
            self.budgets if name in _BUDGETED else "",
            f"{latex_escape(pool)}:" if pool else "",
        ]
        return " ".join(filter(None, [*said, self.sample, self.device if name in _TIMED else ""]))

    def table(self, table: AccuracyTable, constants: str) -> str:
        """Return the caption of a table of accuracies; `constants` are the columns that would not vary."""
        title = latex_escape(table.title.split(";")[0])
        own = ", ".join(dict.fromkeys(f"{b:g}" for b in table.rows[table.keys[0]]))
        unit = unit_of(table.keys[0])
        said = [
            f"{title}{f' ({latex_escape(constants)})' if constants else ''}.",
            f"Budgets are {own}\\,{unit}, up to {100 * self.derived.config.tolerance:g}\\% above them"
            + (", times in ms." if "time_ms" in table.keys else "."),
            rf"Brackets are {_INTERVALS} and of measured $N$.", self.sample, self.device,
            "+: the whole pool, of which the budget affords more." if table.rows.get("pool_limited", pd.Series()).any() else "",
            r"\textbf{Bold}: better than all others at the budget; \underline{underlined}: than all but that "
            r"(paired by prompt, sign flips, Holm, $p < 0.05$).",
        ]  # fmt: skip
        return " ".join(filter(None, said))

    def pairs(self, several: bool) -> str:
        return (
            f"All pairs of pipelines {'at each budget' if several else 'at the budget'}: the difference of their overall accuracies in "
            rf"points, paired by prompt, with 95\% intervals of prompts and of both $N$, and $p$ after Holm's correction. "
            f"{self.sample} {self.device}"
        )
