"""Scores from result rows: the official numbers, both overalls, intervals and reasons."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval.scores import failure, official_summary, scores


def row(tag, prompt, correct, reason=""):
    metadata = json.dumps({"tag": tag, "prompt": prompt})
    return {"tag": tag, "metadata": metadata, "correct": correct, "reason": reason}


ROWS = [
    row("two_object", "a and b", True),
    row("two_object", "a and b", False, "expected a>=1, found 0\nexpected b>=1, found 0"),
    row("single_object", "c", True),
    row("single_object", "c", True),
    row("two_object", "d and e", False, "expected d>=1, found 0"),
    row("two_object", "d and e", False, "expected red e>=1, found 0 red; and 1 blue"),
]


def test_the_official_summary_line_by_line():
    assert official_summary(ROWS).splitlines() == [
        "Summary",
        "=======",
        "Total images: 6",
        "Total prompts: 3",
        "% correct images: 50.00%",
        "% correct prompts: 66.67%",
        "",
        "Task breakdown",
        "==============",
        "two_object       = 25.00% (1 / 4)",
        "single_object    = 100.00% (2 / 2)",
        "",
        "Overall score (avg. over tasks): 0.62500",
    ]


def test_the_two_overalls_are_told_apart():
    found = scores(ROWS)
    assert found.prompt_weighted.mean == pytest.approx((0.5 + 0 + 1) / 3)
    assert found.task_mean.mean == pytest.approx((0.25 + 1) / 2)
    assert list(found.tasks) == ["single_object", "two_object"]
    two = found.tasks["two_object"]
    assert (two.mean, two.prompts, two.images) == (0.25, 2, 4)
    assert two.low <= two.mean <= two.high
    assert np.isnan(found.tasks["single_object"].low)


def test_reasons_are_counted_by_task_and_once_an_image():
    assert scores(ROWS).failures == {
        "single_object": {},
        "two_object": {"wrong colour": 1, "too few objects": 2},
    }


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("expected cat>=2, found 1", "too few objects"),
        ("expected red cat>=1, found 0 red; and 1 blue", "wrong colour"),
        ("no target for cat to be left of", "no target"),
        ("expected cat left of target, found  target", "wrong position"),
        ("expected cat left of target, found below and right of target", "wrong position"),
        ("expected cat<3, found 4", "too many objects"),
        ("the picture is upside down", "other"),
    ],
)
def test_every_reason_of_the_rules_has_its_kind(line, kind):
    assert failure(line) == kind


def test_seeds_of_a_prompt_do_not_narrow_the_interval():
    once = [row("colors", f"p{i}", i % 3 == 0) for i in range(60)]
    a, b = scores(once).prompt_weighted, scores(once * 5).prompt_weighted
    assert (a.mean, a.low, a.high, a.prompts) == pytest.approx((b.mean, b.low, b.high, b.prompts))
    assert (a.images, b.images) == (60, 300)


def test_no_rows_have_no_score():
    with pytest.raises(ValueError, match="no results"):
        scores([])


results = st.lists(
    st.tuples(st.sampled_from(TAGS), st.integers(0, 4), st.booleans()), min_size=1, max_size=40
).map(lambda rows: [row(tag, f"{tag} {n}", correct) for tag, n, correct in rows])


@settings(max_examples=30)
@given(results)
def test_scores_lie_in_their_intervals_and_between_the_tasks(rows):
    found = scores(rows)
    means = [s.mean for s in found.tasks.values()]
    for overall in (found.prompt_weighted, found.task_mean):
        assert min(means) - 1e-9 <= overall.mean <= max(means) + 1e-9
    for score in found.tasks.values():
        assert score.prompts == 1 or 0 <= score.low <= score.high <= 1
    assert sum(s.images for s in found.tasks.values()) == len(rows)
    assert f"Total images: {len(rows)}" in official_summary(rows)
