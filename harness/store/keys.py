"""Keys: the columns by which rows of the tables are sorted, grouped, joined and looked up, each with one meaning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

POOL = ["generator", "steps"]  # the candidates of one generator at one number of steps
PIPELINE = [*POOL, "verifier"]  # a pool and the verifier that scores it
DRAW = ["prompt_id", "seed"]  # within a pool, the candidates that best-of-N picks from
IN_POOL = [*DRAW, "index"]  # a candidate within its pool
CANDIDATE = [*POOL, *IN_POOL]
SCORE = [*PIPELINE, *IN_POOL]  # a verifier's score of a candidate
VERDICT = [*POOL, "judge", *IN_POOL]  # a judge's verdict on a candidate
CELL = [*PIPELINE, "variant"]  # what costs are measured for
COST = [*CELL, "stage", "n", "batch"]  # one kind of call in a cell, measured several times
RUN = "run"  # of costs of several runs as one: which of them measured a row
JUDGED_BY = "_judge="  # in the name of a shard of verdicts, between that of its candidates and the judge
INCIDENT = [*POOL, "seed", "prompt_id", "kind", "batch"]


def distinct(rows: pd.DataFrame, key: Sequence[str]) -> list[tuple[Any, ...]]:
    """List the values of `key` in the rows, in order of first appearance."""
    return list(rows[list(key)].drop_duplicates().itertuples(index=False, name=None))


def of_pool(rows: pd.DataFrame, generator: str, steps: int) -> pd.DataFrame:
    """Select the rows of one pool."""
    return rows[(rows["generator"] == generator) & (rows["steps"] == steps)]


def session(costs: pd.DataFrame) -> list[str]:
    """List the columns that rows measured side by side share: a pool and, of several runs as one, the run."""
    return [*POOL, RUN] if RUN in costs else POOL


def sessions(costs: pd.DataFrame) -> list[pd.DataFrame]:
    """Split costs into those that were measured side by side."""
    return [rows for _, rows in costs.groupby(session(costs), sort=False)]


def measured_with(costs: pd.DataFrame, generator: str, steps: int, verifier: str) -> pd.DataFrame:
    """Select the rows of one pool that were measured side by side with a verifier's, "" for none; all where it has none."""
    here = of_pool(costs, generator, steps)
    return next((rows for rows in sessions(here) if (rows["verifier"] == verifier).any()), here)


def of_pipeline(rows: pd.DataFrame, generator: str, steps: int, verifier: str) -> pd.DataFrame:
    """Select the rows of one pool and verifier."""
    here = of_pool(rows, generator, steps)
    return here[here["verifier"] == verifier]
