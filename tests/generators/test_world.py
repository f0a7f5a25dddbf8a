from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vhsbench.generators.nano import scenes, teacher, world
from vhsbench.harness.geneval import prompts
from vhsbench.harness.geneval.prompts import every


def test_modes_have_unit_norm_and_are_independent():
    flat = teacher.modes(4).reshape(-1, 64)
    gram = flat @ flat.T
    assert np.allclose(np.diag(gram), 1, atol=1e-5)
    assert np.abs(gram[9:, :9]).max() < 1e-5  # later modes do not read what the first ones do
    assert np.allclose(gram[9:, 9:], np.eye(27), atol=1e-5)
    assert np.linalg.matrix_rank(flat) == 36


@pytest.mark.parametrize("channels", [2, 4, 16])
def test_features_of_any_number_of_channels_have_unit_variance_and_do_not_correlate(channels):
    noise = torch.randn(4000, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    score = teacher.scores(noise)
    assert score.shape == (4000, teacher.FEATURES, 9)
    assert torch.allclose(score.std(0), torch.ones(()), atol=0.06)
    at = score[:, :, 4]
    alone = 14 if channels == 2 else teacher.FEATURES
    assert (torch.corrcoef(at[:, :alone].T) - torch.eye(alone)).abs().max() < 0.08


def test_doubt_changes_what_is_chosen_but_not_what_the_prompt_says():
    orders = teacher.Orders.of(every(world.SHAPES)[::400])
    noise = torch.randn(len(orders.same), 4, 8, 8, generator=torch.Generator().manual_seed(0))
    score = teacher.scores(noise)
    plain, doubted = (teacher.scenes_of(orders, score, d) for d in (None, 2 * torch.randn(score.shape)))
    assert not torch.equal(plain.x, doubted.x)
    assert torch.equal(plain.kinds, doubted.kinds)
    assert torch.equal(plain.present, doubted.present)


def test_scenes_are_drawn_in_a_batch_as_one_by_one():
    found = scenes.random_scenes(np.random.default_rng(0), np.array([0, 1, 3, 9]))
    assert [len(s) for s in found.items()] == [0, 1, 3, 9]
    drawn = scenes.draw(found).permute(0, 2, 3, 1).numpy()
    assert np.abs(drawn - np.stack([world.render(s) for s in found.items()])).max() < 1e-6


@given(st.integers(0, 2**32 - 1), st.integers(0, 5500))
@settings(max_examples=60)
def test_the_teacher_draws_what_the_prompt_says(seed, which):
    prompt = every(world.SHAPES)[which % len(every(world.SHAPES))]
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    scene = teacher.scenes_of(teacher.Orders.of([prompt]), teacher.scores(noise)).items()[0]
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
