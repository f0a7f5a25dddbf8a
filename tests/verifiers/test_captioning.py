"""What an aligned model says of features: the captions that it was aligned with."""

from __future__ import annotations

import pytest
import torch

from vhsbench import verifiers
from vhsbench.verifiers.captioning import CaptionError, captions
from vhsbench.verifiers.checkpoint import VerifierCard, save_checkpoint
from vhsbench.verifiers.features import flatten_latents
from vhsbench.verifiers.nano.models import TEMPLATE, build_verifier
from vhsbench.verifiers.training.engine import Engine
from vhsbench.verifiers.training.objectives import Captioning
from vhsbench.verifiers.training.recipe import CAPTION_TEMPLATE, AlignRecipe, EngineRecipe, OptimizerRecipe
from vhsbench.verifiers.training.samples import MemorySamples
from vhsbench.verifiers.training.stage import Stage

SAID = ("a red star at center", "a blue ring at top left and a green heart at bottom")


@pytest.fixture(scope="module")
def aligned(tmp_path_factory):
    """(folder, latents [8, 16, 2, 2]): two kinds of latents, each with its caption, learnt in a few steps."""
    folder = tmp_path_factory.mktemp("aligned")
    torch.manual_seed(0)
    card = VerifierCard("mllm-ae", "nano", None, 16, 4, TEMPLATE)
    model, question = build_verifier(card, 0)
    kinds = torch.where(torch.arange(8) % 2 == 0, 1.0, -1.0)
    latents = kinds[:, None, None, None] + 0.1 * torch.randn(8, 16, 2, 2)
    rows = [{"caption": SAID[i % 2]} for i in range(8)]
    optimizer = OptimizerRecipe(name="muon", learning_rate=2e-3, adamw_learning_rate=1e-3)
    stage = Stage(
        "align", AlignRecipe(batch=8, steps=60, train="all", optimizer=optimizer),
        Captioning(question, CAPTION_TEMPLATE), MemorySamples(latents, rows), flatten_latents, (0,),
    )  # fmt: skip
    Engine(EngineRecipe(), folder).fit(model, stage)
    save_checkpoint(folder / "aligned", model, question.tokenizer, card)
    return folder / "aligned", latents


def test_it_says_what_it_was_aligned_with(aligned):
    folder, latents = aligned
    model = verifiers.create("mllm-ae", checkpoint=folder)
    assert captions(model, latents) == [SAID[i % 2] for i in range(8)]
    assert captions(model, latents[:1], longest=3) == ["a red star"]


def test_a_caption_does_not_depend_on_the_batch(aligned):
    folder, latents = aligned
    model = verifiers.create("mllm-ae", checkpoint=folder)
    assert [captions(model, row[None])[0] for row in latents[:2]] == captions(model, latents[:2])


def test_a_random_model_has_no_words():
    model = verifiers.create("mllm-ae", checkpoint="random", device="meta")
    with pytest.raises(CaptionError, match="'mllm-ae' has no tokenizer"):
        captions(model, torch.zeros(1, 32, 2, 2))
