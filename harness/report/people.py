"""What people's answers say of a run: how often each verifier's picks are right, and how far each judge agrees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vhsbench.harness.common.tasks import in_order
from vhsbench.harness.report.people_answers import UNSURE, VALUES, Answer, stored_answers
from vhsbench.harness.report.people_sample import NONE, Drawn, is_of, picks, read_sample, verdicts
from vhsbench.harness.report.style import label, pool_title, task_name
from vhsbench.harness.report.tables import LaidOut
from vhsbench.harness.stats.agreement import agreement
from vhsbench.harness.stats.curves import OVERALL
from vhsbench.harness.stats.intervals import Floats, brackets
from vhsbench.harness.stats.ppi import Powered, powered_mean
from vhsbench.harness.stats.stratified import Estimate, Sample
from vhsbench.harness.store.keys import CANDIDATE, PIPELINE, POOL, distinct, of_pool
from vhsbench.harness.store.tables import Run

PEOPLE = "people"
_AGREEMENT = [
    "first", "second", "task", "n", "agreement", "agreement_low", "agreement_high", "kappa", "kappa_low", "kappa_high",
    "both_right", "first_right", "second_right", "both_wrong",
]  # fmt: skip
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class People:
    """A run's sample with the answers that it has; U is the number of candidates in the sample."""

    run: Run
    drawn: Drawn
    answers: list[Answer]

    @cached_property
    def labellers(self) -> list[str]:
        return sorted({answer.labeller for answer in self.answers})

    @cached_property
    def _given(self) -> Floats:
        """Each labeller's answers [L, U], NaN where there is none."""
        found = np.full((len(self.labellers), len(self.drawn.rows)), np.nan)
        for answer in self.answers:
            found[self.labellers.index(answer.labeller), answer.place] = VALUES[answer.answer]
        return found

    @cached_property
    def labels(self) -> Floats:
        """The mean of a candidate's answers [U], with "unsure" as half; NaN where there is none."""
        count = (~np.isnan(self._given)).sum(0)
        return np.where(count > 0, np.nansum(self._given, axis=0) / np.maximum(count, 1), np.nan)

    @cached_property
    def _judged(self) -> dict[str, pd.DataFrame]:
        """Each judge's value and verdict of the sample's candidates, in its order."""
        return {
            name: self.drawn.rows[CANDIDATE].merge(rows, on=CANDIDATE, how="left")
            for name, rows in verdicts(self.run).items()
        }

    @cached_property
    def _weights(self) -> dict[tuple[str, int, str], Floats | None]:
        """What each candidate counts in a pipeline's accuracy [U]; None where a pick is not in the sample.

        A prompt's picks count 1 together, shared by its seeds.
        """
        chosen = picks(self.run, self.drawn.best_of)
        place = pd.Series(
            np.arange(len(self.drawn.rows)), pd.MultiIndex.from_frame(self.drawn.rows[CANDIDATE])
        )
        at = place.reindex(pd.MultiIndex.from_frame(chosen[CANDIDATE])).to_numpy()
        share = 1 / chosen.groupby([*PIPELINE, "prompt_id"])["seed"].transform("size").to_numpy()
        found: dict[tuple[str, int, str], Floats | None] = {}
        for key in distinct(chosen, PIPELINE):
            rows = (chosen[PIPELINE] == list(key)).all(axis=1).to_numpy(bool)
            if np.isnan(at[rows]).any():
                found[key] = None
            else:
                found[key] = np.asarray(
                    np.bincount(at[rows].astype(int), share[rows], len(self.drawn.rows)), float
                )
        return found

    def _sample(self, labelled: Bools, of: Bools | None = None) -> Sample:
        """Return the sample of the candidates `of` [U], by default all, of which some are labelled [U]."""
        of = np.ones(len(labelled), bool) if of is None else of
        return Sample(self.drawn.strata[of], self.drawn.rows["prompt_id"].to_numpy()[of], labelled[of])

    @property
    def wanting(self) -> int:
        """How many answers are wanting before accuracies are known."""
        sample = self._sample(~np.isnan(self.labels))
        return sample.wanting(np.ones(len(self.labels)))

    def _corrected(self, pool: tuple[str, int], weights: Floats, judge: str) -> Powered:
        """Estimate what people would say of a pool's picks from all that a judge says and what people said."""
        rows = self.drawn.rows
        of = rows.index.isin(of_pool(rows, *pool).index)
        predicted = self._judged[judge]["value"].to_numpy(float, na_value=np.nan)
        sample = self._sample(~np.isnan(self.labels), of)
        return powered_mean(sample, weights[of], predicted[of], self.labels[of])

    @cached_property
    def accuracies(self) -> pd.DataFrame:
        """Tabulate the share (%) of right picks of each pipeline, by each judge and by people."""
        rows = []
        for (generator, steps, verifier), weights in self._weights.items():
            for judge in self._judged:
                row = {"generator": generator, "steps": steps, "verifier": verifier,
                       "best_of_n": 1 if verifier == NONE else self.drawn.best_of, "judge": judge}  # fmt: skip
                if weights is None:
                    rows.append(row | _percent("accuracy", None) | {"labelled": 0})
                    continue
                found = self._corrected((generator, steps), weights, judge)
                rows.append(
                    row
                    | {"judged": 100 * self._by_judge(weights, judge)}
                    | _percent("accuracy", found.estimate)
                    | {
                        "tuning": found.tuning,
                        "labelled": found.labels,
                        "picks": int(np.count_nonzero(weights)),
                    }
                )
        columns = [*PIPELINE, "best_of_n", "judge", "judged", "accuracy", "low", "high", "tuning",
                   "labelled", "picks"]  # fmt: skip
        return pd.DataFrame(rows, columns=columns)

    def _by_judge(self, weights: Floats, judge: str) -> float:
        """Average a judge's verdicts on picks, or its values where it gives no verdicts."""
        found = self._judged[judge]
        given = found["correct" if self._decides(judge) else "value"]
        values = given.to_numpy(float, na_value=np.nan)
        return float(np.sum(np.where(weights != 0, weights * values, 0.0)) / weights.sum())

    @cached_property
    def agreements(self) -> pd.DataFrame:
        """Tabulate how far each judge and people agree, and each two labellers, by task and over all picks.

        People's verdict is that of most answers; a candidate with as many yes as no, or unsure answers alone, has none.
        """
        sides = {
            name: _of_judge(rows["correct"]) for name, rows in self._judged.items() if self._decides(name)
        }
        people = _of_answers(self.labels)
        rows = [self._agreement(name, judge, PEOPLE, people) for name, judge in sides.items()]
        named = list(zip(self.labellers, self._given, strict=True))
        for (a, first), (b, second) in combinations(named, 2):
            rows.append(
                self._agreement(f"labeller {a}", _of_answers(first), f"labeller {b}", _of_answers(second))
            )
        return pd.concat(rows, ignore_index=True) if rows else pd.DataFrame(columns=_AGREEMENT)

    def _decides(self, judge: str) -> bool:
        """Tell whether a judge says what is right; one without a threshold gives values alone."""
        return bool(self._judged[judge]["correct"].notna().any())

    def _agreement(self, first: str, a: _Rater, second: str, b: _Rater) -> pd.DataFrame:
        """Compare two raters."""
        tags = self.drawn.rows["tag"].to_numpy()
        rows = []
        for tag in [*in_order(sorted(tags)), OVERALL]:
            of = np.ones(len(tags), bool) if tag == OVERALL else tags == tag
            sample = self._sample(a.asked & b.asked, of)
            found = agreement(sample, a.right[of], b.right[of], (a.decided & b.decided)[of])
            rows.append(
                {"first": first, "second": second, "task": tag, "n": found.n}
                | _percent("agreement", found.agreement, "agreement_")
                | {"kappa": found.kappa.value, "kappa_low": found.kappa.low, "kappa_high": found.kappa.high}
                | {"both_right": found.both_right, "first_right": found.first_right,
                   "second_right": found.second_right, "both_wrong": found.both_wrong}
            )  # fmt: skip
        return pd.DataFrame(rows)

    @property
    def about(self) -> list[str]:
        """Say who answered how much, and what is wanting."""
        labelled = int((~np.isnan(self.labels)).sum())
        unsure = sum(answer.answer == UNSURE for answer in self.answers)
        several = "people" if len(self.labellers) > 1 else "person"
        found = [
            f"{len(self.labellers)} {several} ({', '.join(self.labellers)}) gave {len(self.answers):,} answers, "
            f"{unsure:,} of them unsure, about {labelled:,} of the {len(self.labels):,} candidates that a verifier, or none, "
            f"picks of a prompt's first {self.drawn.best_of}."
        ]
        if wanting := self.wanting:
            more = "1 more answer is" if wanting == 1 else f"{wanting:,} more answers are"
            found.append(
                f"{more} needed: accuracies are known once each stratum (task, verdict, disputed or not) has two."
            )
        return found

    @property
    def conclusions(self) -> list[str]:
        """Say how far each judge and people agree, and whether people confirm who leads by it."""
        found = [_agree(row) for _, row in self.agreements.iterrows() if row["task"] == OVERALL]
        rows = self.accuracies[self.accuracies["verifier"] != NONE].dropna(subset=["accuracy", "judged"])
        for (generator, steps, judge), part in rows.groupby([*POOL, "judge"], sort=False):
            if len(part) > 1:
                pool = (str(generator), int(str(steps)))
                first, second = part.sort_values("judged", ascending=False, kind="stable").to_dict("records")[
                    :2
                ]
                found.append(self._lead(pool, str(judge), first, second))
        return [sentence for sentence in found if sentence]

    def _lead(
        self, pool: tuple[str, int], judge: str, first: Mapping[Any, Any], second: Mapping[Any, Any]
    ) -> str:
        """Say whether people confirm the lead that the first of two verifiers has by a judge; "" where that is unknown."""
        ours, its = (self._weights[(*pool, str(row["verifier"]))] for row in (first, second))
        if ours is None or its is None or np.array_equal(ours, its):
            return ""
        lead = self._corrected(pool, ours - its, judge).estimate
        if np.isnan(lead.low):
            return ""
        said = "people confirm that" if lead.low > 0 else "people's answers do not decide it"
        said = "people contradict that" if lead.high < 0 else said
        how = "are right" if self._decides(judge) else "is their mean value"
        pools = distinct(self.accuracies, POOL)
        generator = f" of {pool_title(pool, pools)}" if len(pools) > 1 else ""
        return (
            f"By {judge}, {label(str(first['verifier']))} picks best of {self.drawn.best_of}{generator}: {first['judged']:.1f}% {how}, "
            f"{first['judged'] - second['judged']:.1f} points ahead of {label(str(second['verifier']))}. By people {first['accuracy']:.1f}%"
            f"{brackets(first['low'], first['high'])} are right, {100 * lead.value:+z.1f} points{brackets(100 * lead.low, 100 * lead.high)}: {said}."
        )

    @property
    def accuracy_table(self) -> LaidOut:
        """The accuracies as readers see them."""
        shown = [
            {
                "Generator": row["generator"], "Steps": row["steps"], "Verifier": label(str(row["verifier"])),
                "Best-of-N": row["best_of_n"], "Judge": row["judge"], "By the judge %": _number(row["judged"]),
                "By people % [95%]": _number(row["accuracy"]) + brackets(row["low"], row["high"]),
                "Labelled": f"{row['labelled']} of {row['picks']:.0f}" if pd.notna(row["picks"]) else "",
            }
            for _, row in self.accuracies.iterrows()
        ]  # fmt: skip
        frame = pd.DataFrame(shown)
        one = len(distinct(self.accuracies, POOL)) == 1
        return LaidOut(self.accuracies, frame.drop(columns=["Generator", "Steps"] if one else []))

    @property
    def agreement_table(self) -> LaidOut:
        """The agreements as readers see them."""
        shown = [
            {
                "Of": row["first"], "With": row["second"], "Task": task_name(str(row["task"])),
                "Labelled": row["n"],
                "Agree % [95%]": _number(row["agreement"]) + brackets(row["agreement_low"], row["agreement_high"]),
                "Kappa [95%]": _number(row["kappa"], ".2f") + brackets(row["kappa_low"], row["kappa_high"], ".2f"),
                "Right: both / first / second / neither": f"{row['both_right']} / {row['first_right']} / "
                f"{row['second_right']} / {row['both_wrong']}",
            }
            for _, row in self.agreements.iterrows()
        ]  # fmt: skip
        return LaidOut(self.agreements, pd.DataFrame(shown))


def _agree(row: pd.Series) -> str:
    """Say how far two raters agree; "" where that is unknown."""
    if pd.isna(row["agreement"]):
        return ""
    agreed = f"{row['agreement']:.1f}%{brackets(row['agreement_low'], row['agreement_high'])}"
    kappa = (
        f"{row['kappa']:.2f}{brackets(row['kappa_low'], row['kappa_high'], '.2f')}"
        if pd.notna(row["kappa"])
        else "unknown"
    )
    parted = row["first_right"] + row["second_right"]
    alone = (
        f" Of {parted} on which they part, {row['first']} calls {row['first_right']} right." if parted else ""
    )
    return f"{row['first']} and {row['second']} agree on {agreed} of picks (kappa {kappa}, {row['n']} labelled).{alone}"


def read_people(run: Run) -> People | None:
    """Read the answers that people gave about a run; None if there are none, or they are of other candidates.

    Raises StoreError or LabelError for damaged files.
    """
    drawn = _read(run)
    if drawn is None or not is_of(drawn, run):
        return None
    answers = stored_answers(run.path, drawn)
    return People(run, drawn, answers) if answers else None


def about_stale(run: Run) -> list[str]:
    """Say if people answered about candidates that the run no longer has."""
    drawn = _read(run)
    if drawn is None or is_of(drawn, run) or not stored_answers(run.path, drawn):
        return []
    return [
        "people's answers are about earlier candidates than this run's, and count nowhere; `vhsbench label` says what to do."
    ]


def _read(run: Run) -> Drawn | None:
    """Read the sample of a single run: several runs as one have none."""
    return None if "combined" in run.info else read_sample(run.path)


@dataclass(frozen=True)
class _Rater:
    """What was asked of a rater, what it decided, and what it called right, all [U]."""

    asked: Bools
    decided: Bools
    right: Bools


def _of_answers(values: Floats) -> _Rater:
    """Half, of unsure answers or as many yes as no, decides nothing."""
    return _Rater(~np.isnan(values), values != VALUES[UNSURE], values > VALUES[UNSURE])


def _of_judge(correct: pd.Series) -> _Rater:
    decided = correct.notna().to_numpy(bool)
    return _Rater(np.ones(len(decided), bool), decided, correct.fillna(False).to_numpy(bool))


def _percent(name: str, found: Estimate | None, prefix: str = "") -> dict[str, float]:
    if found is None:
        return {name: np.nan}
    return {name: 100 * found.value, f"{prefix}low": 100 * found.low, f"{prefix}high": 100 * found.high}


def _number(value: Any, form: str = ".1f") -> str:
    return "" if pd.isna(value) else f"{value:{form}}"
