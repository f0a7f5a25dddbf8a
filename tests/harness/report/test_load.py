"""What keeps a report of many candidates quick changes nothing of it."""

from __future__ import annotations

import io
from functools import cached_property

import numpy as np
import pandas as pd
from PIL import Image, ImageChops

from vhsbench.harness.report.derived import Derived
from vhsbench.harness.report.figures import score_distributions
from vhsbench.harness.report.style import SCREEN, drawn, save
from vhsbench.harness.sweep.kept_images import Pictures


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
    with SCREEN.styled():
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
