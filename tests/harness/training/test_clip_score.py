from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from vhsbench.generators.nano.world import caption, random_scene, render
from vhsbench.harness.geneval.colors import ColorModelError
from vhsbench.harness.training import clip_score
from vhsbench.harness.training.clip_score import open_clip_score
from vhsbench.harness.training.data_config import ClipScoreConfig


class Flat:
    """A model whose image lies along x, and whose text at an angle of as many degrees as it says."""

    def eval(self):
        return self

    def encode_image(self, pixels):
        return torch.tensor([[3.0, 0.0]]).repeat(len(pixels), 1)

    def encode_text(self, angles):
        return 2 * torch.stack([torch.cos(angles), torch.sin(angles)], -1)


def test_the_score_by_hand_through_open_clips_interface(monkeypatch):
    said = []

    def tokenizer(texts):
        said.extend(texts)
        return torch.tensor([math.radians(float(t.removeprefix("A photo depicts "))) for t in texts])

    monkeypatch.setattr(
        clip_score, "open_clip_model", lambda *_: (Flat(), lambda _: torch.zeros(3, 2, 2), tokenizer)
    )
    score = open_clip_score(ClipScoreConfig(), "cpu")
    found = score([Image.new("RGB", (4, 4))] * 4, ["0", "60", "72.7", "120"])
    # 100 x 2.5 x cos; the paper's 73.5 is an angle of about 72.9 degrees; none is below 0
    assert found == pytest.approx([250.0, 125.0, 250 * math.cos(math.radians(72.7)), 0.0], abs=1e-3)
    assert said[0] == "A photo depicts 0"
    assert score.name == "ViT-B-32-quickgelu openai"


def test_nanos_clip_prefers_true_captions():
    rng = np.random.default_rng(0)
    scenes = [random_scene(rng, 2) for _ in range(24)]
    images = [Image.fromarray((255 * render(s)).astype(np.uint8)) for s in scenes]
    captions = [caption(s) for s in scenes]
    score = open_clip_score(ClipScoreConfig(model="nano"), "cpu")
    true, swapped = score(images, captions), score(images, captions[1:] + captions[:1])
    assert sum(true) / 24 > sum(swapped) / 24 + 50


def test_unknown_weights_are_one_sentence():
    with pytest.raises(ColorModelError, match="CLIP-Score model 'nowhere' is neither a file"):
        open_clip_score(ClipScoreConfig(pretrained="nowhere"), "cpu")
