"""What keeps a report of many candidates quick changes nothing of it."""

from __future__ import annotations

import io
from functools import cached_property

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageChops
from scipy.stats import gaussian_kde

from vhsbench.harness.report.derived import Derived
from vhsbench.harness.report.figures import _density, score_distributions
from vhsbench.harness.report.style import drawn, save, styled
from vhsbench.harness.sweep.kept_images import Pictures


@pytest.mark.parametrize("count", [3, 200, 5000])
def test_the_density_of_counted_scores_is_that_of_the_scores(count):
    rng = np.random.default_rng(count)
    scores = np.clip(rng.normal(rng.choice([-0.6, 0.7], count), 0.2), -1, 1)
    x = np.linspace(-1, 1, 200)
    exact = 3 * gaussian_kde(np.concatenate([scores, 2 - scores, -2 - scores]), bw_method=0.05)(x)
    # as far as a line of the figure shows
    assert np.abs(_density(scores, x) - exact).max() < 0.01 * exact.max()


def test_the_density_does_not_grow_with_the_candidates(monkeypatch):
    from vhsbench.harness.report import figures

    sizes = []
    monkeypatch.setattr(
        figures, "gaussian_kde", lambda data, **how: sizes.append(len(data)) or gaussian_kde(data, **how)
    )
    _density(np.random.default_rng(0).uniform(-1, 1, 200_000), np.linspace(-1, 1, 5))
    assert max(sizes) <= 3000


def test_a_figure_that_is_laid_out_once_is_the_same_picture(tmp_path):
    rng = np.random.default_rng(0)
    scores = pd.DataFrame(
        {
            "verifier": ["vhs", "mllm-ae"] * 50,
            "score": rng.uniform(-1, 1, 100),
            "correct": rng.random(100) < 0.5,
        }
    )
    save(score_distributions(scores, "a title"), tmp_path / "figure", scores)
    with styled():
        plain = drawn(score_distributions(scores, "a title"), "png", dpi=300)
    with Image.open(io.BytesIO(plain)) as expected, Image.open(tmp_path / "figure.png") as found:
        assert found.size == expected.size
        assert ImageChops.difference(found.convert("RGB"), expected.convert("RGB")).getbbox() is None


def test_kept_pictures_are_found_by_their_seed_first(loaded, monkeypatch):
    pictures = Pictures(loaded)
    rows = loaded.candidates
    every = rows[[pictures.file(row) is not None for _, row in rows.iterrows()]]
    others = rows.assign(seed=7)
    asked = []
    real = Pictures.file
    monkeypatch.setattr(Pictures, "file", lambda self, row: asked.append(row["seed"]) or real(self, row))
    pd.testing.assert_frame_equal(pictures.kept(pd.concat([others, rows])), every)
    assert len(every)
    assert set(asked) == {0}


def test_the_pools_of_a_run_are_looked_for_once():
    assert isinstance(Derived.__dict__["pools"], cached_property)
