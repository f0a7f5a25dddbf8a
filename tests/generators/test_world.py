from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vhsbench.generators.nano import teacher, world
from vhsbench.harness.geneval import prompts
from vhsbench.harness.geneval.prompts import every


def test_windows_have_unit_norm_and_are_independent():
    assert np.allclose(np.linalg.norm(teacher.windows(), axis=1), 1, atol=1e-6)
    assert np.linalg.matrix_rank(teacher.windows()) == len(teacher.windows())


@given(st.integers(0, 2**32 - 1), st.integers(0, 5500))
@settings(max_examples=60)
def test_the_teacher_draws_what_the_prompt_says(seed, which):
    prompt = every(world.SHAPES)[which % len(every(world.SHAPES))]
    noise = np.random.default_rng(seed).standard_normal((1, 16, 8, 8)).astype(np.float32)
    scene = teacher.scene_of(prompt, teacher.scores(noise)[0])
    wanted = sorted(c["class"] for c in prompt["include"] for _ in range(c["count"]))
    assert sorted(i.shape for i in scene) == wanted
    for clause in prompt["include"]:
        if "color" in clause:
            assert [i.color for i in scene if i.shape == clause["class"]] == [clause["color"]]
    assert all(8 < i.x < 56 and 8 < i.y < 56 for i in scene)


@pytest.mark.parametrize(
    ("relation", "cell", "partner"),
    [("left of", 3, 4), ("right of", 3, None), ("below", 7, 4), ("above", 7, None)],
)
def test_partner_cells(relation, cell, partner):
    assert teacher.partner_cells(relation)[cell] == partner


def test_pictures_are_colours_on_grey():
    item = world.Item("square", "red", 32, 32, 8)
    picture = world.render((item,))
    assert np.allclose(picture[0, 0], world.BACKGROUND)
    assert np.allclose(picture[32, 32], world.PALETTE["red"], atol=1e-6)


def test_captions_name_counts_colours_and_places():
    scene = (world.Item("cross", "blue", 10, 10, 7), world.Item("cross", "pink", 54, 54, 7))
    assert world.caption(scene) == "two crosses : a blue cross at top left and a pink cross at bottom right"
    assert world.caption(()) == "nothing"


def test_every_word_of_prompts_and_captions_is_known():
    from vhsbench.verifiers.nano.models import llm_tokenizer

    tokenizer = llm_tokenizer()
    rng = np.random.default_rng(0)
    texts = [p["prompt"] for p in prompts.every(world.SHAPES)]
    texts += [world.caption(world.random_scene(rng, n)) for n in (1, 2, 3, 4, 5) * 20]
    for text in texts:
        assert tokenizer.unk_token_id not in tokenizer.encode(text), text
