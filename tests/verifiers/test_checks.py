"""What counts as scores: one finite number a candidate, probabilities from 0 to 1, and who gave which is named."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vhsbench.verifiers.checks import ScoresError, check_form, marks
from vhsbench.verifiers.protocol import Scores

MINE = SimpleNamespace(name="mine")


def name(row):
    return f"candidate {row}"


def scores(**parts):
    found = {
        "p_yes": torch.tensor([0.9, 0.1]), "p_no": torch.tensor([0.1, 0.9]), "score": torch.tensor([0.9, -0.9]),
    }  # fmt: skip
    return Scores(**found | parts)


def test_good_scores_pass_bit_for_bit():
    given = scores()
    found = marks(MINE, given, 2, name)
    assert list(found) == ["p_yes", "p_no", "score"]
    for field, values in found.items():
        assert values.dtype == np.float32
        assert values.tobytes() == getattr(given, field).numpy().tobytes()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_become_float32(dtype):
    found = marks(MINE, scores(score=torch.tensor([3.0, -0.5], dtype=dtype)), 2, name)
    assert found["score"].dtype == np.float32
    assert found["score"].tolist() == [3.0, -0.5]


def test_probabilities_may_be_unknown():
    unknown = torch.full((2,), torch.nan)
    found = marks(MINE, scores(p_yes=unknown, p_no=unknown), 2, name)
    assert np.isnan(found["p_yes"]).all()


def test_probabilities_may_be_left_out():
    given = Scores(score=torch.tensor([23.5, -7.0]))
    found = marks(MINE, given, 2, name)
    assert found["score"].tolist() == [23.5, -7.0]
    assert np.isnan(found["p_yes"]).all()
    assert np.isnan(found["p_no"]).all()
    assert found["p_yes"].dtype == found["p_no"].dtype == np.float32
    assert check_form(MINE, given, 2) is given


def test_a_score_may_not_be_left_out():
    half = torch.full((2,), 0.5)
    with pytest.raises(TypeError, match="Scores needs 'score'"):
        Scores(p_yes=half, p_no=half)
    with pytest.raises(ScoresError, match="gave NoneType as 'score' of 2 candidate"):
        check_form(MINE, Scores(score=None), 2)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"score": torch.tensor([0.5, torch.nan])},
         "verifier 'mine' gave candidate 1 the score nan; a score is a finite number."),
        ({"score": torch.tensor([torch.inf, 0.5])},
         "verifier 'mine' gave candidate 0 the score inf; a score is a finite number."),
        ({"score": torch.tensor([0.5, -1e300], dtype=torch.float64)},
         "verifier 'mine' gave candidate 1 the score -inf; a score is a finite number."),
        ({"p_yes": torch.tensor([1.5, 0.5])},
         "verifier 'mine' gave candidate 0 the p_yes 1.5; a probability is from 0 to 1."),
        ({"p_no": torch.tensor([0.5, -0.25])},
         "verifier 'mine' gave candidate 1 the p_no -0.25; a probability is from 0 to 1."),
        ({"p_no": torch.tensor([torch.inf, 0.5])},
         "verifier 'mine' gave candidate 0 the p_no inf; a probability is from 0 to 1."),
        ({"score": torch.zeros(3)},
         "verifier 'mine' gave float32 [3] as 'score' of 2 candidate(s), not a floating-point tensor [2]."),
        ({"score": torch.zeros(2, 1)},
         "verifier 'mine' gave float32 [2, 1] as 'score' of 2 candidate(s), not a floating-point tensor [2]."),
        ({"p_yes": torch.tensor([1, 0])},
         "verifier 'mine' gave int64 [2] as 'p_yes' of 2 candidate(s), not a floating-point tensor [2]."),
        ({"p_no": torch.zeros(2, dtype=torch.complex64)},
         "verifier 'mine' gave complex64 [2] as 'p_no' of 2 candidate(s), not a floating-point tensor [2]."),
        ({"score": [0.5, 0.1]},
         "verifier 'mine' gave list as 'score' of 2 candidate(s), not a floating-point tensor [2]."),
    ],
)  # fmt: skip
def test_what_is_no_score_is_refused_by_verifier_and_candidate(parts, said):
    with pytest.raises(ScoresError) as error:
        marks(MINE, scores(**parts), 2, name)
    assert str(error.value) == said


def test_an_answer_of_another_kind_is_refused():
    with pytest.raises(ScoresError, match="verifier 'mine' gave NoneType as 'p_yes' of 2 candidate"):
        marks(MINE, torch.zeros(2), 2, name)


def test_the_form_is_checked_without_a_look_at_values():
    meta = {field: torch.zeros(2, device="meta") for field in ("p_yes", "p_no", "score")}
    assert check_form(MINE, Scores(**meta), 2).score.is_meta  # reading a value of it would raise


@given(st.lists(st.floats(width=32), min_size=1, max_size=8))
def test_a_batch_passes_if_every_score_is_finite(values):
    half = torch.full((len(values),), 0.5)
    given = Scores(half, half, torch.tensor(values))
    if np.isfinite(values).all():
        assert marks(MINE, given, len(values), name)["score"].tolist() == values
    else:
        first = int(np.argmin(np.isfinite(values)))
        with pytest.raises(ScoresError, match=f"gave candidate {first} the score"):
            marks(MINE, given, len(values), name)
