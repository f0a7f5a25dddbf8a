"""What a user names as baseline or candidate: a bundled verifier, a checkpoint, a run, an accepted baseline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vhsbench import verifiers
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.registry import nearest
from vhsbench.harness.inference.candidates import Rows
from vhsbench.harness.regress.compare import Candidates, Judged
from vhsbench.harness.regress.pool import Pool, PoolError
from vhsbench.harness.store.keys import DRAW, IN_POOL, POOL, distinct
from vhsbench.verifiers.checkpoint import kind_of
from vhsbench.verifiers.checks import marks

if TYPE_CHECKING:
    from vhsbench.harness.store.tables import Run
    from vhsbench.verifiers.protocol import Verifier

BASELINES = Path("results/baselines")


class SourceError(VhsbenchError):
    """A baseline or candidate that cannot be used; the message is one sentence for a user."""


@dataclass(frozen=True)
class Source:
    """A checkpoint to load as `verifier`, or a finished run's scores by `verifier`."""

    text: str  # as the user named it
    verifier: str
    checkpoint: str | None = None  # None: the bundled one
    run: Path | None = None

    def load(self, device: str = "cpu", generator: str | None = None) -> Verifier:
        """Build the verifier of a checkpoint, to read what `generator` makes."""
        return verifiers.create(self.verifier, checkpoint=self.checkpoint, device=device, generator=generator)


def resolve(text: str, baselines: Path = BASELINES) -> Source:
    """What `text` names: a registered verifier; VERIFIER=CHECKPOINT (a folder or hub id); a checkpoint's
    folder; a run's folder, RUN:VERIFIER if it has several; the name of an accepted baseline.

    Raises SourceError, with the nearest names, or CheckpointError for a folder of no known verifier.
    """
    if text in verifiers.REGISTRY:
        return Source(text, text)
    kind, equals, checkpoint = text.partition("=")
    if equals and kind in verifiers.REGISTRY and not Path(text).exists():
        return Source(text, kind, checkpoint)
    folder, _, chosen = text.rpartition(":")
    if folder and not Path(text).exists() and (Path(folder) / "run.json").is_file():
        return _run(text, Path(folder), chosen)
    path = Path(text)
    if (path / "run.json").is_file():
        return _run(text, path, None)
    if (path / "config.json").is_file():
        return Source(text, kind_of(path), str(path))
    if path.is_dir():
        raise SourceError(f"{text} is neither a checkpoint (it has no config.json) nor a run (no run.json).")
    accepted = accepted_names(baselines)
    if text in accepted:
        from vhsbench.harness.regress.baselines import (
            content_of,  # which resolves what it accepts, with this module
        )

        found = resolve(str(content_of(text, baselines)), baselines)
        return Source(text, found.verifier, found.checkpoint, found.run)
    known = nearest(text, [*verifiers.REGISTRY.names(), *accepted])
    raise SourceError(f"'{text}' is no folder, verifier or accepted baseline; {known}")


def accepted_names(baselines: Path) -> list[str]:
    return sorted(f.parent.name for f in baselines.glob("[!.]*/manifest.json"))


def _run(text: str, path: Path, chosen: str | None) -> Source:
    from vhsbench.harness.store.tables import load_run

    names = sorted(load_run(path).scores["verifier"].unique())
    if chosen is None and len(names) == 1:
        chosen = names[0]
    if chosen not in names:
        said = (
            f"the run {path} has no verifier '{chosen}'"
            if chosen
            else f"the run {path} has several verifiers"
        )
        raise SourceError(f"{said}; write {path}:VERIFIER with one of {', '.join(names) or 'none'}.")
    return Source(text, str(chosen), run=path)


def pool_candidates(pool: Pool) -> Candidates:
    """The pool's candidates as pools [R, M]."""
    return _candidates(pool.candidates, pool.prompts)


def score_pool(
    verifier: Verifier, name: str, pool: Pool, progress: Callable[[int, int], None] = lambda *_: None
) -> Judged:
    """Every candidate of the pool scored. Raises PoolError if the pool does not hold what it reads."""
    made_for = verifier.info().generator
    if verifier.needs == "hidden" and made_for != pool.manifest.generator:
        raise PoolError(
            f"'{name}' reads hidden states of '{made_for}', but the pool is of '{pool.manifest.generator}'."
        )
    parts: list[list[Any]] = [[], [], []]
    done, of = 0, len(pool.candidates)
    progress(done, of)
    for texts, read in pool.batches(verifier.needs, verifier.block):
        scores = verifier.score(texts, read if isinstance(read, list) else read.to(_device(verifier)))
        found = marks(verifier, scores, len(texts), _rows(pool, texts, done).name)
        for part, field in zip(parts, ("score", "p_yes", "p_no"), strict=True):
            part.append(found[field].astype(np.float64))
        done += len(texts)
        progress(done, of)
    shape = (-1, pool.manifest.size)
    score, p_yes, p_no = (np.concatenate(p).reshape(shape) for p in parts)
    return Judged(name, score, p_yes, p_no)


def _rows(pool: Pool, texts: Sequence[str], start: int) -> Rows:
    """Which candidates of the pool a batch is of, from row `start` on."""
    keys = pool.candidates[IN_POOL].iloc[start : start + len(texts)]
    return Rows(pool.manifest.generator, texts, list(keys.itertuples(index=False, name=None)))


def _device(verifier: Verifier) -> Any:
    return getattr(verifier, "device", "cpu")


def run_candidates(run: Run) -> Candidates:
    """A run's candidates as pools [R, M]. Raises SourceError for a run of several generators."""
    if len(distinct(run.candidates, POOL)) != 1:
        raise SourceError(f"the run {run.path} is of several generators; a comparison is of one.")
    return _candidates(run.candidates, run.prompts)


def run_scores(run: Run, name: str, verifier: str, candidates: Candidates) -> Judged:
    """A run's scores by one verifier for these candidates. Raises SourceError if they are not the same.

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
            f"the run {run.path} is of other candidates: prompts, seeds and verdicts must be those compared with."
        )
    scores = run.scores[run.scores["verifier"] == verifier].sort_values(IN_POOL)
    score, p_yes, p_no = (
        scores[c].to_numpy(float).reshape(mine.correct.shape)[rows, :size] for c in ("score", "p_yes", "p_no")
    )
    return Judged(name, score, p_yes, p_no)


def _candidates(table: pd.DataFrame, prompts: list[dict[str, Any]]) -> Candidates:
    ordered = table.sort_values(IN_POOL)
    sizes = ordered.groupby(DRAW, sort=True).size()
    if sizes.nunique() != 1:
        raise SourceError("the pools are of different sizes: not every prompt has the same candidates.")
    ids = sizes.index.to_frame()
    correct = ordered["correct"].to_numpy(bool).reshape(-1, int(sizes.iloc[0]))
    return Candidates(prompts, ids["prompt_id"].to_numpy(np.int64), ids["seed"].to_numpy(np.int64), correct)
