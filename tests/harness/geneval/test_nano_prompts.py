"""Nano's prompts: counts and disjointness are a function of the world."""

from __future__ import annotations

from collections import Counter

from vhsbench.generators.nano.models import PROMPT_TOKENS, PROMPT_WORDS
from vhsbench.generators.nano.world import OPENINGS
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval.nano_prompts import nano_prompts, taught_prompts, worded
from vhsbench.harness.geneval.prompts import picture, single


def test_every_task_has_64_evaluation_prompts():
    assert Counter(p["tag"] for p in nano_prompts()["evaluation"]) == dict.fromkeys(TAGS, 64)
    for part in nano_prompts().values():
        assert len({p["prompt"] for p in part}) == len(part)


def test_what_a_prompt_asks_to_see_is_in_one_split_alone():
    seen = {part: {picture(p) + p["tag"] for p in found} for part, found in nano_prompts().items()}
    assert not seen["train"] & seen["validation"]
    assert not seen["train"] & seen["evaluation"]
    assert not seen["validation"] & seen["evaluation"]
    assert {p["tag"] for p in nano_prompts()["validation"]} == set(TAGS)


def test_words_change_and_metadata_does_not():
    one = single("star")
    found = worded([one], least=100)
    assert len(found) == len(OPENINGS) == len({p["prompt"] for p in found})
    assert found[0] == one
    assert found[2]["prompt"] == "an image of a star"
    assert all({**p, "prompt": one["prompt"]} == one for p in found)


def test_the_generator_learns_every_word_within_its_length():
    taught = taught_prompts()
    words = {w for p in taught for w in p["prompt"].split()}
    assert words <= set(PROMPT_WORDS)
    assert max(len(p["prompt"].split()) for p in taught) < PROMPT_TOKENS
    known = {p["prompt"] for p in taught}
    few = [p for p in nano_prompts()["evaluation"] if p["tag"] in ("single_object", "two_object", "counting")]
    assert all(p["prompt"] in known for p in few)
