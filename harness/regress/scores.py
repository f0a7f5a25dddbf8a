"""LabeledCandidates with their verdicts, of a frozen pool or a run, and one verifier's scores of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vhsbench.harness.inference.candidates import Rows
from vhsbench.harness.regress.pool import Pool, PoolError
from vhsbench.harness.regress.sources import SourceError
from vhsbench.harness.store.keys import DRAW, IN_POOL, POOL, distinct
from vhsbench.harness.store.tables import Run
from vhsbench.verifiers.checks import marks
from vhsbench.verifiers.protocol import Verifier

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LabeledCandidates:
    """Candidates with their verdicts: a row is a prompt and seed, in order. Arrays [R], `correct` [R, M]."""

    prompts: list[dict[str, Any]]  # by prompt_id
    prompt_id: NDArray[np.int64]
    seed: NDArray[np.int64]
    correct: NDArray[np.bool_]

    @property
    def tags(self) -> NDArray[np.str_]:
        return np.array([self.prompts[i]["tag"] for i in self.prompt_id])


@dataclass(frozen=True)
class VerifierScores:
    """One verifier's scores of the candidates, each [R, M]; probabilities may be NaN."""

    name: str
    score: Floats
    p_yes: Floats
    p_no: Floats


def pool_candidates(pool: Pool) -> LabeledCandidates:
    """Return the candidates of a frozen pool."""
    return _candidates(pool.candidates, pool.prompts)


def score_pool(
    verifier: Verifier, name: str, pool: Pool, progress: Callable[[int, int], None] = lambda *_: None
) -> VerifierScores:
    """Score every candidate of the pool. Raises PoolError if the pool does not keep what the verifier reads."""
    made_for = verifier.info().generator
    if verifier.needs == "hidden" and made_for != pool.manifest.generator:
        raise PoolError(
            f"'{name}' reads hidden states of '{made_for}', but the pool holds those of '{pool.manifest.generator}'."
        )
    parts: list[list[Any]] = [[], [], []]
    done, of = 0, len(pool.candidates)
    progress(done, of)
    for texts, read in pool.batches(verifier.needs, verifier.block):
        scores = verifier.score(texts, read if isinstance(read, list) else read.to(verifier.device))
        found = marks(verifier, scores, len(texts), _rows(pool, texts, done).name)
        for part, field in zip(parts, ("score", "p_yes", "p_no"), strict=True):
            part.append(found[field].astype(np.float64))
        done += len(texts)
        progress(done, of)
    shape = (-1, pool.manifest.size)
    score, p_yes, p_no = (np.concatenate(p).reshape(shape) for p in parts)
    return VerifierScores(name, score, p_yes, p_no)


def _rows(pool: Pool, texts: Sequence[str], start: int) -> Rows:
    """Return the candidates of a batch that begins at row `start` of the pool."""
    keys = pool.candidates[IN_POOL].iloc[start : start + len(texts)]
    return Rows(pool.manifest.generator, texts, list(keys.itertuples(index=False, name=None)))


def run_candidates(run: Run) -> LabeledCandidates:
    """Return the candidates of a run. Raises SourceError for a run of several generators."""
    if len(distinct(run.candidates, POOL)) != 1:
        raise SourceError(f"the run {run.path} has candidates of several generators; a comparison needs one.")
    return _candidates(run.candidates, run.prompts)


def run_scores(run: Run, name: str, verifier: str, candidates: LabeledCandidates) -> VerifierScores:
    """Return a run's scores by one verifier for these candidates. Raises SourceError if the run has others.

    The candidates are the same if prompts, seeds and every verdict agree; a run may hold more of them.
    """
    mine = run_candidates(run)
    size = candidates.correct.shape[1]
    places = {(p, s): r for r, (p, s) in enumerate(zip(mine.prompt_id, mine.seed, strict=True))}
    pairs = list(zip(candidates.prompt_id, candidates.seed, strict=True))
    rows = [places.get(pair, -1) for pair in pairs]
    same = (
        -1 not in rows
        and mine.correct.shape[1] >= size
        and all(mine.prompts[p]["prompt"] == candidates.prompts[p]["prompt"] for p, _ in pairs)
        and (mine.correct[rows, :size] == candidates.correct).all()
    )
    if not same:
        raise SourceError(
            f"the run {run.path} has other candidates: its prompts, seeds and verdicts must be those that it is compared on."
        )
    scores = run.scores[run.scores["verifier"] == verifier].sort_values(IN_POOL)
    score, p_yes, p_no = (
        scores[c].to_numpy(float).reshape(mine.correct.shape)[rows, :size] for c in ("score", "p_yes", "p_no")
    )
    return VerifierScores(name, score, p_yes, p_no)


def _candidates(table: pd.DataFrame, prompts: list[dict[str, Any]]) -> LabeledCandidates:
    ordered = table.sort_values(IN_POOL)
    sizes = ordered.groupby(DRAW, sort=True).size()
    if sizes.nunique() != 1:
        raise SourceError(
            "the pools are of different sizes: not every prompt has the same number of candidates."
        )
    ids = sizes.index.to_frame()
    correct = ordered["correct"].to_numpy(bool).reshape(-1, int(sizes.iloc[0]))
    return LabeledCandidates(
        prompts, ids["prompt_id"].to_numpy(np.int64), ids["seed"].to_numpy(np.int64), correct
    )
