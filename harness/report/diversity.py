"""How different the winners of best-of-N are to CLIP, by the pictures that a run kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from vhsbench.harness.report.judged import doubled
from vhsbench.harness.stats.curves import Grid
from vhsbench.harness.stats.diversity import distance, vendi
from vhsbench.harness.stats.expected import chances
from vhsbench.harness.stats.intervals import Floats
from vhsbench.harness.store.keys import DRAW, PIPELINE, POOL, distinct, of_pipeline, of_pool
from vhsbench.harness.store.tables import Run
from vhsbench.harness.sweep.kept_images import Pictures

if TYPE_CHECKING:
    from PIL import Image

COLUMNS = [*PIPELINE, "best_of_n", "vendi", "distance", "prompts"]

Embed = Callable[[Sequence["Image.Image"]], Floats]  # pictures -> features [B, D] of unit length


def clip_of(generator: str) -> Embed:
    """Load the CLIP of `clip-score` for a generator's pictures: nano's own, or the published one, which is downloaded."""
    from vhsbench.verifiers.scorers.loading import clip_score
    from vhsbench.verifiers.scorers.similarity import Similarity

    scorer = clip_score(generator=generator)
    assert isinstance(scorer, Similarity)
    return scorer.embed


def diversity(run: Run, pictures: Pictures, embedder: Callable[[str], Embed]) -> pd.DataFrame:
    """Tabulate how different winners are, by verifier and N, over the prompts whose whole pools were kept as pictures.

    embedder returns what embeds the pictures of a generator, by the name that the run shows. Empty where none was kept.
    """
    rows = []
    for generator, steps in sorted(distinct(run.candidates, POOL)):
        candidates, scores = (of_pool(table, generator, steps) for table in (run.candidates, run.scores))
        size = int(candidates["index"].max()) + 1
        draws = _whole(candidates, pictures, size)
        embed = embedder(generator) if draws else None
        features = None if embed is None else np.stack([embed(images) for _, images in draws])
        for verifier in sorted(scores["verifier"].unique()):
            found = dict.fromkeys(doubled(size), (np.nan, np.nan, 0))
            if features is not None:
                grid = Grid(pd.concat([part for part, _ in draws]))
                found = _by_n(features, grid, grid.of(of_pipeline(scores, generator, steps, verifier)))
            rows += [(generator, steps, verifier, n, *of_n) for n, of_n in found.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def _by_n(features: Floats, grid: Grid, scores: Floats) -> dict[int, tuple[float, float, int]]:
    """Compute (Vendi score, distance, number of prompts) of the winners by scores [R, M], by N."""
    won = np.stack([chances(row) for row in scores])
    prompts = len(np.unique(grid.prompts))
    by_n = {n: won[..., n - 1] for n in doubled(scores.shape[1])}
    return {n: (vendi(features, p), distance(features, p, grid.prompts), prompts) for n, p in by_n.items()}


def _whole(
    candidates: pd.DataFrame, pictures: Pictures, size: int
) -> list[tuple[pd.DataFrame, list[Image.Image]]]:
    """List the draws of which every candidate's picture was kept and can be read, in the order of a Grid's rows."""
    found = []
    for _, part in pictures.kept(candidates).groupby(DRAW, sort=True):
        rows = part.sort_values("index")
        images = [pictures.image(row) for row in rows.to_dict("records")]
        there = [image for image in images if image is not None]
        if len(there) == size:
            found.append((rows, there))
    return found
