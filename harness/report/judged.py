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
    judges = list(dict.fromkeys([*(j.shown for j in config.judged_by), *run.verdicts["judge"]]))
    if run.verdicts["judge"].nunique() < 2 and run.verdicts["value"].isin((0, 1)).all():
        return pd.DataFrame(columns=COLUMNS)
    by_task = config.suite is not None and config.suite.create().overall == "tasks"
    parts = []
    for judge in judges:
        values = run.verdicts.loc[run.verdicts["judge"] == judge, [*CANDIDATE, "value"]]
        found = run.candidates.merge(values, on=CANDIDATE, how="left", validate="one_to_one")
        if found["value"].notna().all():
            curves = accuracy_curves(found.assign(correct=found["value"]), run.scores)
            parts.append(
                curves[curves["tag"] == (GENEVAL_OVERALL if by_task else OVERALL)].assign(judge=judge)
            )
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    rows = pd.concat(parts, ignore_index=True)
    doubled = [2**k for k in range(int(rows["n"].max()).bit_length())]
    rows = rows[rows["n"].isin({*doubled, rows["n"].max()})]
    return rows.rename(columns={"n": "best_of_n", "accuracy": "value"})[COLUMNS].reset_index(drop=True)
