"""Numbers of a candidate that are none: refused before anything is judged, and the candidate is named."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vhsbench import generators, verifiers
from vhsbench.generators.protocol import NotFiniteError
from vhsbench.harness.inference.best_of_n import best_of_n
from vhsbench.harness.inference.candidates import CandidateError, Rows, finite_rows, generate
from vhsbench.verifiers.checks import ScoresError
from vhsbench.verifiers.protocol import Scores

PROMPT = "a photo of a red heart"
ROWS = Rows("nano", (PROMPT,) * 3, [(7, 0, 0), (7, 0, 1), (7, 0, 2)])


@pytest.fixture
def own():
    """A nano of the test's own, to be damaged."""
    return generators.create("nano")


def cond(generator):
    return generator.encode([PROMPT]).select([0, 0, 0])


def spoiled(values, row, value):
    return values.index_fill(0, torch.tensor([row]), value)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("stage", ["denoise", "head", "tail"])
def test_the_candidate_whose_numbers_are_none_is_named(own, monkeypatch, stage, value):
    original = getattr(own, stage)

    def made(*arguments):
        result = original(*arguments)
        if stage == "head":
            return type(result)(**vars(result) | {"streams": (spoiled(result.streams[0], 1, value),)})
        return spoiled(result, 1, value)

    monkeypatch.setattr(own, stage, made)
    what = "hidden states of block 5" if stage == "head" else "latents"
    with pytest.raises(CandidateError) as error:
        generate(own, cond(own), ROWS, [] if stage == "denoise" else [5])
    assert str(error.value) == (
        f"the {what} of candidate 1 of prompt 7 ('{PROMPT}'), seed 0, by generator 'nano' are NaN or infinite: no "
        "picture can be made of them; a dtype of wider range (bfloat16, float32) may help."
    )


def test_pixels_that_are_nan_are_no_black_picture(own, monkeypatch):
    """As of an autoencoder that overflows in float16, with sound latents."""
    original = own.pixels
    monkeypatch.setattr(own, "pixels", lambda latents: spoiled(original(latents), 2, torch.nan))
    noise = own.noise(ROWS.seeds())
    with pytest.raises(NotFiniteError, match=r"nano: the pixels of row.s. 2 of the batch are NaN") as error:
        own.decode(own.denoise(cond(own), noise))
    assert error.value.rows == (2,)
    with pytest.raises(
        CandidateError, match=r"the pixels of candidate 2 of prompt 7 .*, seed 0, by generator"
    ):
        generate(own, cond(own), ROWS, [])


@pytest.mark.parametrize("size", [1, 3, 16, 61, 64])
@pytest.mark.parametrize("at", [0, -1])
def test_one_nan_of_a_picture_is_enough(own, monkeypatch, size, at):
    pixels = torch.zeros(1, 3, size, size)
    pixels.view(-1)[at] = torch.nan
    monkeypatch.setattr(own, "pixels", lambda latents: pixels)
    with pytest.raises(NotFiniteError):
        own.decode(torch.zeros(1, 1, 1, 1))


def test_pixels_beyond_the_range_are_clipped_as_ever(own, monkeypatch):
    monkeypatch.setattr(own, "pixels", lambda latents: torch.tensor([-3.0, 0.0, 3.0]).view(1, 3, 1, 1))
    assert np.asarray(own.decode(torch.zeros(1, 1, 1, 1))[0]).tolist() == [[[0, 128, 255]]]


def test_a_plugin_that_decodes_too_few_is_refused(own, monkeypatch):
    monkeypatch.setattr(own, "decode", lambda latents: [Image.new("RGB", (8, 8))] * 2)
    with pytest.raises(CandidateError, match=r"generator 'nano' decoded 2 image.s. of 3 candidates"):
        generate(own, cond(own), ROWS, [])


def test_what_is_sound_is_made_as_before(nano):
    made = generate(nano, cond(nano), ROWS, [6])
    noise = nano.noise(ROWS.seeds())
    hidden = nano.head(cond(nano), noise, 6)
    assert torch.equal(made.read("hidden", 6), hidden.features)
    assert torch.equal(made.read("latents"), nano.tail(hidden))
    assert [i.tobytes() for i in made.images] == [i.tobytes() for i in nano.decode(made.read("latents"))]
    scores = verifiers.create("vhs")
    assert (
        made.scored_by(scores)["score"].tolist() == scores.score([PROMPT] * 3, hidden.features).score.tolist()
    )


@given(st.lists(st.lists(st.floats(width=32), min_size=2, max_size=2), min_size=1, max_size=5))
def test_rows_are_finite_as_numpy_has_it(rows):
    values = torch.tensor(rows)
    assert finite_rows(values).tolist() == np.isfinite(rows).all(1).tolist()
    shaped = values[:, None, :, None].bfloat16()
    assert finite_rows(shaped).tolist() == torch.isfinite(values.bfloat16()).all(1).tolist()


class Odd:
    """A verifier of latents whose score of the second candidate it sees is what it is told."""

    name, needs, block = "odd", "latents", None

    def __init__(self, value):
        self.value, self.seen = value, 0

    def check_host(self, generator):
        pass

    def score(self, prompts, features):
        rows = range(self.seen, self.seen + len(prompts))
        self.seen += len(prompts)
        half = torch.full((len(prompts),), 0.5)
        return Scores(half, half, torch.tensor([self.value if row == 1 else 0.5 for row in rows]))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_score_that_is_none_does_not_win(nano, value, batch):
    with pytest.raises(ScoresError) as error:
        best_of_n(nano, Odd(value), PROMPT, [11, 12, 13], batch)
    assert str(error.value) == (
        f"verifier 'odd' gave candidate 1 of the prompt '{PROMPT}', seed 12, by generator 'nano' the score "
        f"{value:g}; a score is a finite number."
    )


def test_scores_of_another_shape_do_not_win(nano):
    odd = Odd(0.5)
    column = SimpleNamespace(p_yes=torch.ones(1), p_no=torch.ones(1), score=torch.ones(1, 1))
    odd.score = lambda prompts, features: column
    with pytest.raises(ScoresError, match=r"'odd' gave float32 \[1, 1\] as 'score' of 1 candidate"):
        best_of_n(nano, odd, PROMPT, [11, 12])


def test_a_picture_of_nan_is_no_winner(own, monkeypatch):
    monkeypatch.setattr(own, "pixels", lambda latents: torch.full((len(latents), 3, 8, 8), torch.nan))
    with pytest.raises(NotFiniteError):
        best_of_n(own, None, PROMPT, [1])
