"""Questions of a prompt: what is refused, and how answers become one value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhsbench.harness.common.questions import COMBINE, Question, QuestionError, questions_of, value

LIKELY = st.floats(0, 1)


@st.composite
def answered(draw, parents=True):
    """Questions, each depending on some before it, with the probabilities of their right answers."""
    count = draw(st.integers(1, 8))
    of = [
        tuple(draw(st.sets(st.integers(0, i - 1), max_size=2))) if i and parents else () for i in range(count)
    ]
    return [Question("?", parents=p) for p in of], draw(st.lists(LIKELY, min_size=count, max_size=count))


def test_the_means_of_geneval_2():
    asked = [Question("?")] * 2
    assert value([0.9, 0.4], asked) == pytest.approx(0.65)
    assert value([0.9, 0.4], asked, "geometric") == pytest.approx(0.6)
    assert value([0.9, 0.4], asked, "share") == 0.5
    assert value([0.9, 0.0], asked, "geometric") == 0


def test_a_question_whose_parent_is_no_counts_as_nothing():
    """As DPG-Bench: a dog; a brown dog; its collar; a red collar. No dog: the rest is 0, however it is answered."""
    asked = [
        Question("?"),
        Question("?", parents=(0,)),
        Question("?", parents=(0,)),
        Question("?", parents=(2,)),
    ]
    assert value([1, 1, 0.1, 1], asked, "share") == 0.5  # the collar's colour needs a collar
    assert value([0.2, 1, 1, 1], asked, "share") == 0
    assert value([0.2, 1, 1, 1], asked) == pytest.approx(0.05)


@given(answered(), st.sampled_from(COMBINE))
def test_a_value_is_from_0_to_1_and_never_more_than_without_parents(case, combine):
    asked, right = case
    free = value(right, [Question("?")] * len(asked), combine)
    assert 0 <= value(right, asked, combine) <= free + 1e-12 <= 1 + 2e-12


@given(answered(), st.sampled_from(COMBINE), st.data())
def test_a_better_answer_never_makes_it_worse(case, combine, data):
    asked, right = case
    place = data.draw(st.integers(0, len(right) - 1))
    better = [*right]
    better[place] = data.draw(st.floats(right[place], 1))
    assert value(better, asked, combine) >= value(right, asked, combine) - 1e-12


@given(answered(parents=False))
def test_the_geometric_mean_is_at_most_the_arithmetic(case):
    asked, right = case
    assert value(right, asked, "geometric") <= value(right, asked) + 1e-12
    assert value(right, asked) == pytest.approx(np.mean(right))


def test_questions_are_read_as_they_are_written():
    asked = [Question("a dog?"), Question("how many?", "two", (0,))]
    assert questions_of({"questions": [q.as_metadata() for q in asked]}, "x") == asked
    assert questions_of({"questions": [{"question": "a dog?"}]}, "x") == asked[:1]


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({}, "x: 'questions' is needed, a list of 1 to 1,000 questions."),
        ({"questions": []}, "x: 'questions' is needed, a list of 1 to 1,000 questions."),
        ({"questions": ["a dog?"]}, "x, key 'questions.0': an object with 'question' is needed"),
        ({"questions": [{"question": "a dog?", "anser": "no"}]}, "no keys but question, answer, parents."),
        ({"questions": [{"question": " "}]}, "x, key 'questions.0': a text of 1 to 10,000 characters"),
        ({"questions": [{"question": "a dog?", "parents": 0}]}, "'parents' is a list, not int."),
        ({"questions": [{"question": "a dog?", "parents": [1]}]}, "the place of one of its 1 questions"),
        ({"questions": [{"question": "a dog?"}, {"question": "?", "parents": [2]}]}, "key 'questions.1'"),
    ],
)
def test_odd_questions_are_refused_with_their_place(metadata, said):
    with pytest.raises(QuestionError) as error:
        questions_of(metadata, "x")
    assert said in str(error.value)


def test_as_many_probabilities_as_questions():
    for right in ([], [0.5, 0.5], [float("nan")], [1.5]):
        with pytest.raises(ValueError, match="probabilities"):
            value(right, [Question("?")])
