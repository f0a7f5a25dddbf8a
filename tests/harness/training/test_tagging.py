from __future__ import annotations

import pytest

from vhsbench.generators.nano.world import SHAPES
from vhsbench.harness.geneval.prompts import coco_classes, every, official, to_json_lines
from vhsbench.harness.training.tagging import TagError, derive, mentions, plurals, read_tag, tag_all

COCO = coco_classes()


def test_all_official_prompts_get_their_own_metadata():
    """Word for word, key for key: what the benchmark itself says of its 553 prompts."""
    derived = [derive(p["prompt"], p["tag"], COCO) for p in official()]
    assert to_json_lines(derived) == to_json_lines(official())


def test_all_of_nanos_prompts_get_their_own_metadata():
    for prompt in every(SHAPES)[::7]:
        assert derive(prompt["prompt"], prompt["tag"], SHAPES) == prompt


@pytest.mark.parametrize(
    ("text", "tag", "include"),
    [
        ("A hot dog to the left of a teddy bear", "position",
         [("teddy bear", None), ("hot dog", ["left of", 0])]),
        ("two people", "counting", [("person", None)]),
        ("four knives on a plate", "counting", [("knife", None)]),
        ("a photo of 3 benches", "counting", [("bench", None)]),
        ("a cat on top of a couch", "position", [("couch", None), ("cat", ["above", 0])]),
    ],
)  # fmt: skip
def test_freer_wordings(text, tag, include):
    found = derive(text, tag, COCO)
    assert [(c["class"], c.get("position")) for c in found["include"]] == include
    assert found["prompt"] == text


def test_an_orange_is_a_fruit_or_a_colour():
    assert [(m.name, m.color) for m in mentions("an orange and an orange cat", COCO)] == [
        ("orange", None),
        ("cat", "orange"),
    ]
    assert mentions("a photo of an orange orange", COCO)[0].color == "orange"


def test_the_longest_name_wins_and_parts_of_words_do_not_count():
    assert [m.name for m in mentions("a hot dog, a cart and a dog", COCO)] == ["hot dog", "dog"]


@pytest.mark.parametrize(
    ("text", "tag", "why"),
    [
        ("a photo of a unicorn", "single_object", "found 0"),
        ("a cat and a dog", "single_object", "found 2 .cat, dog."),
        ("a cat and a cat", "two_object", "cat twice"),
        ("a red cat and a dog", "two_object", "no colour"),
        ("a red cat and a dog", "color_attr", "a colour of each"),
        ("a photo of a cat", "colors", "a colour of each"),
        ("a photo of a cat", "counting", "from 2 to 10, found 1"),
        ("37 cats", "counting", "found 37"),
        ("two cats and a dog", "two_object", "found a number"),
        ("a cat beside a dog", "position", "one relation"),
        ("a cat above and left of a dog", "position", "one relation"),
    ],
)
def test_words_that_are_not_what_the_tag_says(text, tag, why):
    with pytest.raises(TagError, match=why):
        derive(text, tag, COCO)


def test_answers_of_a_tagger():
    assert read_tag(' "colors".\n') == "colors"
    for answer in ("", "colors and counting", "I think: position"):
        with pytest.raises(TagError, match="is no tag"):
            read_tag(answer)


def test_what_has_no_metadata_is_listed_with_its_reason():
    kept, refused = tag_all(["a photo of a cat", "a dream"], ["single_object", "single_object"], COCO)
    assert [p["prompt"] for p in kept] == ["a photo of a cat"]
    assert refused == [("a dream", "single_object asks for 1 known object(s), found 0 (none)")]


def test_plurals():
    assert plurals("bus") == ("buses",)
    assert set(plurals("bench")) == {"benchs", "benches"}
    assert set(plurals("wine glass")) == {"wine glasses"}
    assert "computer mice" in plurals("computer mouse")
