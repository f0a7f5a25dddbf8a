"""What each judge makes of best-of-N, added up by the suite's rule."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.report.judged import judged
from vhsbench.harness.store.keys import CANDIDATE
from vhsbench.harness.store.tables import load_run


@pytest.fixture(scope="module")
def run(made):
    """A run with two judges: its first, and "liking", of values between 0 and 1 and no verdicts."""
    found = load_run(made)
    right = found.candidates["correct"]
    first = found.candidates.drop(columns="tag").assign(
        judge="geneval", value=right.astype(float), picture=""
    )
    value = np.random.default_rng(0).random(len(first))
    liking = first.assign(judge="liking", value=value, correct=None)
    return replace(found, verdicts=pd.concat([first, liking], ignore_index=True))


def config(run, **changes):
    return RunConfig.model_validate(run.info["config"] | changes)


def test_a_judges_value_is_the_mean_over_prompts_of_the_candidates_that_a_verifier_picks(run):
    found = judged(run, config(run))
    assert list(found["judge"].unique()) == ["geneval", "liking"]
    assert sorted(found["best_of_n"].unique()) == [1, 2, 4, 8]
    values = run.verdicts[run.verdicts["judge"] == "liking"]
    of = found[found["judge"] == "liking"].set_index(["verifier", "best_of_n"])["value"]
    assert of["vhs", 1] == pytest.approx(100 * values["value"].mean())
    scored = run.scores[run.scores["verifier"] == "vhs"].merge(values, on=CANDIDATE)
    best = scored.loc[scored.groupby("prompt_id")["score"].idxmax(), "value"]
    assert of["vhs", 8] == pytest.approx(100 * best.mean())
    pools = values.groupby("prompt_id")["value"]
    assert of["oracle", 8] == pytest.approx(100 * pools.max().mean())
    of_two = pools.apply(lambda pool: np.mean([max(two) for two in combinations(pool, 2)]))
    assert of["oracle", 2] == pytest.approx(100 * of_two.mean())
    assert [of["random", n] for n in (1, 2, 4, 8)] == pytest.approx([100 * values["value"].mean()] * 4)


def test_the_suite_says_whether_tasks_count_alike(run):
    uneven = run.candidates["prompt_id"] < 6  # four prompts of the first task, two of the second
    some = replace(run, candidates=run.candidates[uneven])
    values = some.candidates.merge(run.verdicts[run.verdicts["judge"] == "liking"], on=CANDIDATE)
    of_task = values.groupby("tag")["value"].mean()

    def one(**changes):
        found = judged(some, config(run, **changes))
        return found[(found["judge"] == "liking") & (found["best_of_n"] == 1)]["value"].iloc[0]

    assert one() == pytest.approx(100 * values["value"].mean())
    assert one(suite={"name": "t2i-compbench", "path": "x"}) == pytest.approx(100 * of_task.mean())
    assert abs(of_task.mean() - values["value"].mean()) > 1e-3


def test_it_is_left_out_where_accuracies_say_it_all_and_a_judge_where_it_has_not_seen_all(run):
    first = replace(run, verdicts=run.verdicts[run.verdicts["judge"] == "geneval"])
    assert judged(first, config(run)).empty
    half = replace(run, verdicts=run.verdicts.iloc[:-1])
    assert list(judged(half, config(run))["judge"].unique()) == ["geneval"]
