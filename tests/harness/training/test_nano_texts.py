"""The texts of nano's world: streamed, true, and in words that the language model knows."""

from __future__ import annotations

import numpy as np
import pytest

from vhsbench.generators.nano.world import Item, cell_center
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval import prompts as geneval
from vhsbench.harness.geneval.nano_prompts import nano_prompts
from vhsbench.harness.training.nano_texts import TextStream, holds, loose, scene_about
from vhsbench.verifiers.nano.models import llm_tokenizer


def at(shape, color, cell):
    return Item(shape, color, *cell_center(cell), 7.4)


@pytest.mark.parametrize(
    ("prompt", "scene", "true"),
    [
        (geneval.single("ring"), (at("ring", "red", 0),), True),
        (geneval.single("ring"), (at("star", "red", 0),), False),
        (geneval.counting("ring", 2), (at("ring", "red", 0), at("ring", "red", 4)), True),
        (geneval.counting("ring", 2), tuple(at("ring", "red", c) for c in (0, 4, 8)), False),
        (geneval.color("ring", "red"), (at("ring", "blue", 0),), False),
        (geneval.position("ring", "star", "left of"), (at("ring", "red", 3), at("star", "red", 5)), True),
        (geneval.position("ring", "star", "left of"), (at("ring", "red", 5), at("star", "red", 3)), False),
        (geneval.color_attr("ring", "red", "star", "blue"), (at("ring", "red", 0), at("star", "blue", 1)), True),
        (geneval.color_attr("ring", "red", "star", "blue"), (at("ring", "blue", 0), at("star", "red", 1)), False),
    ],
)  # fmt: skip
def test_answers_follow_genevals_rules(prompt, scene, true):
    assert holds(prompt, scene) is true


def test_scenes_about_prompts_are_right_and_wrong_for_every_task():
    rng = np.random.default_rng(0)
    for tag in TAGS:
        prompts = [p for p in nano_prompts()["train"] if p["tag"] == tag]
        answers = [
            holds(p, scene_about(rng, p))
            for p in (prompts[int(rng.integers(len(prompts)))] for _ in range(80))
        ]
        assert 0.2 < np.mean(answers) < 0.85, tag


def test_loose_words_name_every_object():
    scene = (at("ring", "red", 0), at("star", "blue", 4))
    said = loose(np.random.default_rng(0), scene)
    assert "a red ring at top left" in said
    assert "a blue star at center" in said
    assert loose(np.random.default_rng(0), ()) == "nothing"


def test_texts_are_streamed_never_repeated_and_of_known_words():
    stream = TextStream(nano_prompts()["train"], 0, 64)
    tokenizer, seen = llm_tokenizer(), set()
    assert stream(3) == TextStream(nano_prompts()["train"], 0, 64)(3)
    for step in range(6):
        for said, answer in stream(step):
            assert (said, answer) not in seen
            seen.add((said, answer))
            assert tokenizer.unk_token_id not in tokenizer.encode(f"{said} {answer}")
    answers = [a for _, a in seen if a in ("yes", "no")]
    assert len(answers) == len(seen) / 2
    assert 0.35 < np.mean([a == "yes" for a in answers]) < 0.65
