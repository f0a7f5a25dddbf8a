"""Every branch of GenEval's verdict, with the reason's exact text."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhsbench.harness.geneval import Detection, colored, evaluate, select
from vhsbench.harness.geneval.metadata import MetadataError
from vhsbench.harness.geneval.rules import COLORS, RELATIONS, iou, relations


def box(x: float, y: float, size: float = 10, score: float = 0.95) -> Detection:
    return Detection((x, y, x + size, y + size), score)


def no_color(name, detections):
    raise AssertionError("colours are asked of coloured clauses alone")


def judge(include, objects, colors=no_color, exclude=()):
    metadata = {"include": list(include), "exclude": list(exclude)}
    asked = zip(include, colored(metadata, objects), strict=True)
    return evaluate(
        metadata, objects, [colors(clause["class"], boxes) if boxes else [] for clause, boxes in asked]
    )


def test_enough_objects_is_correct():
    verdict = judge([{"class": "cat", "count": 2}], {"cat": [box(0, 0), box(20, 0)]})
    assert verdict.correct
    assert verdict.reason == ""


def test_too_few():
    verdict = judge([{"class": "cat", "count": 2}], {"cat": [box(0, 0)]})
    assert not verdict.correct
    assert verdict.reason == "expected cat>=2, found 1"


def test_absent_class():
    assert judge([{"class": "cat", "count": 1}], {}).reason == "expected cat>=1, found 0"


def test_exclude():
    verdict = judge(
        [{"class": "cat", "count": 1}],
        {"cat": [box(0, 0), box(20, 0)]},
        exclude=[{"class": "cat", "count": 2}],
    )
    assert verdict.reason == "expected cat<2, found 2"


def test_color_right_and_wrong():
    clause = {"class": "cat", "count": 1, "color": "red"}
    assert judge([clause], {"cat": [box(0, 0)]}, lambda n, d: ["red"]).correct
    verdict = judge([clause], {"cat": [box(0, 0)]}, lambda n, d: ["blue"])
    assert verdict.reason == "expected red cat>=1, found 0 red; and 1 blue"


def test_other_colors_are_listed_in_the_fixed_order():
    clause = {"class": "cat", "count": 3, "color": "red"}
    verdict = judge([clause], {"cat": [box(0, 0)] * 3}, lambda n, d: ["white", "red", "orange"][: len(d)])
    assert verdict.reason == "expected red cat>=3, found 1 red; and 1 red, 1 orange, 1 white"


def test_only_the_most_confident_are_classified():
    seen = []

    def colors(name, detections):
        seen.append(len(detections))
        return ["red"] * len(detections)

    judge([{"class": "cat", "count": 1, "color": "red"}], {"cat": [box(0, 0), box(20, 0)]}, colors)
    assert seen == [1]


POSITION = [{"class": "cup", "count": 1}, {"class": "cat", "count": 1, "position": ["left of", 0]}]


def test_position_holds():
    assert judge(POSITION, {"cat": [box(0, 0)], "cup": [box(40, 0)]}).correct


def test_position_fails_with_the_relations_that_hold():
    verdict = judge(POSITION, {"cat": [box(40, 40)], "cup": [box(0, 0)]})
    assert verdict.reason == "expected cat left of target, found below and right of target"


def test_position_without_any_relation_has_two_spaces():
    verdict = judge(POSITION, {"cat": [box(0, 0)], "cup": [box(1, 0)]})
    assert verdict.reason == "expected cat left of target, found  target"


def test_position_without_its_target():
    verdict = judge(POSITION, {"cat": [box(0, 0)]})
    assert verdict.reason == "expected cup>=1, found 0\nno target for cat to be left of"


def test_every_pair_must_stand_so_and_the_first_that_does_not_is_named():
    clauses = [{"class": "cup", "count": 2}, {"class": "cat", "count": 2, "position": ["left of", 0]}]
    cups = [box(100, 0), box(100, 50)]
    assert judge(clauses, {"cat": [box(0, 0), box(0, 50)], "cup": cups}).correct
    # the first cat passes both cups; the second is below the first cup and right of the second
    verdict = judge(clauses, {"cat": [box(0, 20), box(160, 52)], "cup": cups})
    assert verdict.reason == "expected cat left of target, found below and right of target"


def test_two_relations_can_hold_and_either_is_enough():
    objects = {"cat": [box(40, 40)], "cup": [box(0, 0)]}
    for relation, correct in {"right of": True, "below": True, "left of": False, "above": False}.items():
        clauses = [POSITION[0], {**POSITION[1], "position": [relation, 0]}]
        assert judge(clauses, objects).correct is correct


def test_only_the_first_count_objects_are_placed():
    objects = {"cat": [box(0, 0), box(80, 0)], "cup": [box(40, 0), box(-80, 0)]}
    assert judge(POSITION, objects).correct


def test_a_wrong_colour_is_no_target_and_is_not_placed():
    red = {"class": "cup", "count": 1, "color": "red"}
    objects = {"cat": [box(0, 0)], "cup": [box(40, 0)]}
    verdict = judge([red, POSITION[1]], objects, lambda n, d: ["blue"])
    assert verdict.reason == ("expected red cup>=1, found 0 red; and 1 blue\nno target for cat to be left of")
    coloured = {**POSITION[1], "color": "red", "position": ["right of", 0]}
    verdict = judge([POSITION[0], coloured], objects, lambda n, d: ["white"])
    assert verdict.reason == "expected red cat>=1, found 0 red; and 1 white"


def test_too_few_objects_are_not_asked_for_colours():
    verdict = judge([{"class": "cat", "count": 2, "color": "red"}], {"cat": [box(0, 0)]})
    assert verdict.reason == "expected cat>=2, found 1"


@pytest.mark.parametrize(("present", "reason"), [(0, ""), (2, ""), (3, "expected cat<3, found 3")])
def test_exclude_counts_all_objects_and_an_absent_class_passes(present, reason):
    objects = {"cat": [box(20 * i, 0) for i in range(present)]} if present else {}
    assert judge([], objects, exclude=[{"class": "cat", "count": 3}]).reason == reason


def test_included_and_excluded_failures_come_in_that_order():
    verdict = judge(
        [{"class": "dog", "count": 1}], {"cat": [box(0, 0)]}, exclude=[{"class": "cat", "count": 1}]
    )
    assert verdict.reason == "expected dog>=1, found 0\nexpected cat<1, found 1"


def test_relations_are_of_centres_shrunk_by_a_tenth_of_both_sizes():
    a = box(0, 0)
    assert relations(box(2, 0), a) == set()  # an offset of 2 is what the sizes take
    assert relations(box(3.5, 0), a) == set()  # 1.5 of 3.5 is less than half
    assert relations(box(4.5, 0), a) == {"right of"}
    # by the unshrunk offset's length: (4, 3) of 5 by shrunk (2, 1) is (0.4, 0.2)
    assert relations(box(4, 3), a) == set()


def test_overlap_is_cut_strictly_below_the_limit_and_after_the_cap():
    same = [box(0, 0, score=0.9), box(0, 0, score=0.8), box(100, 0, score=0.7)]
    assert select({"cat": same}, "colors", max_overlap=0.99)["cat"] == [same[0], same[2]]
    assert select({"cat": same}, "colors", max_overlap=0.99, max_objects=2)["cat"] == [same[0]]
    assert select({"cat": same}, "colors")["cat"] == same


def test_options_of_selection():
    rows = {"cat": [box(0, 0, score=0.5)], "dog": []}
    assert select(rows, "colors", threshold=0.5) == {}
    assert select(rows, "counting", counting_threshold=0.4) == {"cat": rows["cat"]}


def test_all_failures_are_listed():
    verdict = judge([{"class": "cat", "count": 1}, {"class": "dog", "count": 1}], {})
    assert verdict.reason == "expected cat>=1, found 0\nexpected dog>=1, found 0"


def test_thresholds_are_strict_and_in_float32():
    at = float(np.float32(0.3))
    above = float(np.nextafter(np.float32(0.3), np.float32(1)))
    assert select({"cat": [box(0, 0, score=at)]}, "colors") == {}
    assert select({"cat": [box(0, 0, score=0.3000000001)]}, "colors") == {}
    assert len(select({"cat": [box(0, 0, score=above)]}, "colors")["cat"]) == 1


def test_counting_asks_for_more_confidence():
    raw = {"cat": [box(0, 0, score=0.5)]}
    assert select(raw, "counting") == {}
    assert "cat" in select(raw, "single_object")


def test_ties_put_the_later_row_first_and_the_cap_comes_before_overlap():
    rows = [box(i, 0, score=0.5) for i in range(20)]
    kept = select({"cat": rows}, "colors")["cat"]
    assert kept == rows[::-1][:16]
    alone = select({"cat": rows}, "colors", max_overlap=0.5)["cat"]
    assert kept[0] in alone
    assert all(iou(a, b) < 0.5 for a in alone for b in alone if a is not b)


def test_iou_counts_pixels_inclusively():
    assert iou(box(0, 0, 9), box(0, 0, 9)) == 1.0
    assert iou(box(0, 0, 9), box(5, 0, 9)) == pytest.approx(50 / 150)


@pytest.mark.parametrize(
    ("clause", "key"),
    [
        ({"class": "cat"}, "count"),
        ({"class": "cat", "count": 1, "color": "mauve"}, "color"),
        ({"class": "cat", "count": 1, "position": ["near", 0]}, "position.0"),
        ({"class": "cat", "count": 1, "position": ["above", 0]}, "position"),
    ],
)
def test_a_clause_that_is_none_is_refused_in_one_sentence(clause, key):
    with pytest.raises(MetadataError, match=f"^GenEval metadata, key 'include.0.{key}': ") as error:
        judge([clause], {"cat": [box(0, 0)]})
    assert "\n" not in str(error.value)


def test_clauses_that_are_not_there_are_not_taken_for_fulfilled():
    for ask in (colored, lambda metadata, objects: evaluate(metadata, objects, [[]])):
        with pytest.raises(MetadataError, match=r"^GenEval metadata, key 'include': is required"):
            ask({"inclde": [{"class": "cat", "count": 1}]}, {})


def test_colours_decide_where_a_clause_names_one_and_found_enough():
    include = [
        {"class": "cat", "count": 1, "color": "red"},
        {"class": "dog", "count": 2, "color": "blue"},
        {"class": "cup", "count": 1},
        {"class": "cat", "count": 2, "color": "green", "position": ["left of", 2]},
    ]
    cats, dogs = [box(0, 0), box(20, 0), box(40, 0)], [box(60, 0)]
    objects = {"cat": cats, "dog": dogs, "cup": [box(80, 0)]}
    assert colored({"include": include}, objects) == [cats[:1], [], [], cats[:2]]


boxes = st.builds(box, st.floats(0, 500), st.floats(0, 500), st.floats(1, 100), st.floats(0, 1, width=32))


@given(
    st.lists(boxes, max_size=4), st.lists(boxes, max_size=4), st.sampled_from(RELATIONS), st.integers(1, 3)
)
def test_verdicts_are_the_conjunction_that_the_clauses_state(cats, cups, relation, count):
    clauses = [{"class": "cup", "count": count}, {"class": "cat", "count": count, "position": [relation, 0]}]
    verdict = judge(clauses, {"cat": cats, "cup": cups}, exclude=[{"class": "cat", "count": 4}])
    pairs = itertools.product(cats[:count], cups[:count])
    expected = (
        count <= len(cups) and count <= len(cats) < 4 and all(relation in relations(a, b) for a, b in pairs)
    )
    assert verdict.correct is expected
    assert verdict.correct is (verdict.reason == "")


@given(st.lists(st.sampled_from(COLORS), min_size=1, max_size=6), st.sampled_from(COLORS), st.integers(1, 6))
def test_colours_are_counted_among_the_first_count(colors, wanted, count):
    clause = {"class": "cat", "count": count, "color": wanted}
    verdict = judge([clause], {"cat": [box(0, 0)] * len(colors)}, lambda n, d: colors[: len(d)])
    assert verdict.correct is (count <= len(colors) and all(c == wanted for c in colors[:count]))


@given(st.lists(boxes, max_size=20), st.floats(0.1, 0.9))
def test_what_suppression_keeps_does_not_overlap_and_what_it_drops_does(rows, limit):
    kept = select({"cat": rows}, "colors", max_overlap=limit).get("cat", [])
    capped = select({"cat": rows}, "colors").get("cat", [])
    assert all(iou(a, b) < limit for a, b in itertools.combinations(kept, 2))
    dropped = [d for d in capped if not any(d is k for k in kept)]
    assert all(any(iou(d, k) >= limit for k in kept) for d in dropped)


@given(boxes, boxes)
def test_relations_are_antisymmetric(a, b):
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert {opposite[r] for r in relations(a, b)} == relations(b, a)


@given(st.lists(boxes, max_size=30), st.sampled_from(["counting", "colors"]))
def test_selection_is_sorted_capped_and_above_the_threshold(rows, task):
    kept = select({"cat": rows}, task).get("cat", [])
    limit = np.float32(0.9 if task == "counting" else 0.3)
    assert len(kept) == min(16, sum(np.float32(d.score) > limit for d in rows))
    assert all(a.score >= b.score for a, b in itertools.pairwise(kept))


@given(st.lists(boxes, min_size=1, max_size=6), st.integers(1, 4))
def test_more_objects_never_hurt_an_include_of_count(rows, count):
    clause = [{"class": "cat", "count": count}]
    if judge(clause, {"cat": rows}).correct:
        assert judge(clause, {"cat": [*rows, box(0, 0)]}).correct
