"""What each judge makes of best-of-N: its mean value, added up as the run's suite does."""

from __future__ import annotations

import pandas as pd

from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.stats.curves import GENEVAL_OVERALL, OVERALL, accuracy_curves
from vhsbench.harness.store.keys import CANDIDATE, PIPELINE
from vhsbench.harness.store.tables import Run

COLUMNS = [*PIPELINE, "judge", "best_of_n", "value", "low", "high"]


def judged(run: Run, config: RunConfig) -> pd.DataFrame:
    """Compute each judge's mean value (%) of best-of-N by N, doubled from 1, with its 95% interval by prompt.

    The mean is over prompts, or over tasks where the run's suite says so. Empty where the only judge says right or
    wrong, as accuracies do; a judge without verdicts on all candidates is left out.
    """
    if run.verdicts["judge"].nunique() < 2 and run.verdicts["value"].isin((0, 1)).all():
        return pd.DataFrame(columns=COLUMNS)
    overall = GENEVAL_OVERALL if by_task(config) else OVERALL
    parts = []
    for judge, candidates in valued(run, config).items():
        curves = accuracy_curves(candidates, run.scores)
        parts.append(curves[curves["tag"] == overall].assign(judge=judge))
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    rows = pd.concat(parts, ignore_index=True)
    rows = rows[rows["n"].isin(doubled(int(rows["n"].max())))]
    return rows.rename(columns={"n": "best_of_n", "accuracy": "value"})[COLUMNS].reset_index(drop=True)


def valued(run: Run, config: RunConfig) -> dict[str, pd.DataFrame]:
    """Return the run's candidates by judge, with its value as `correct`; without a judge that has not judged them all."""
    judges = dict.fromkeys([*(j.shown for j in config.judged_by), *run.verdicts["judge"]])
    found = {}
    for judge in judges:
        values = run.verdicts.loc[run.verdicts["judge"] == judge, [*CANDIDATE, "value"]]
        rows = run.candidates.merge(values, on=CANDIDATE, how="left", validate="one_to_one")
        if rows["value"].notna().all():
            found[judge] = rows.assign(correct=rows["value"])
    return found


def by_task(config: RunConfig) -> bool:
    """Tell whether the run's suite adds values up as the mean of tasks' means, not over prompts."""
    return config.suite is not None and config.suite.create().overall == "tasks"


def doubled(pool: int) -> list[int]:
    """List the N that tables by N have: 1, 2, 4, ... and the pool."""
    return sorted({*(2**k for k in range(pool.bit_length())), pool})
