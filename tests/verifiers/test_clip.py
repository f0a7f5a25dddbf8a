from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel

from vhsbench import verifiers
from vhsbench.verifiers.checkpoint import CheckpointError
from vhsbench.verifiers.clip import OFFICIAL, ClipPatches, load_tower

SMALL = CLIPVisionConfig(
    hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, image_size=28,
    patch_size=14, hidden_act="quick_gelu",
)  # fmt: skip
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def image(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def tower() -> CLIPVisionModel:
    torch.manual_seed(0)
    return CLIPVisionModel(SMALL).eval()


def test_features_are_the_last_layer_but_one_without_the_class_token(tower):
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        expected = tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    patches = ClipPatches(tower)
    patches.pixels = lambda images: pixels
    assert (patches.tokens, patches.width) == (4, 48)
    torch.testing.assert_close(patches([image(28, 28)] * 2), expected)


@pytest.mark.parametrize("size", [(64, 48), (40, 90), (28, 28), (28, 61)])
def test_preprocessing_by_hand(tower, size):
    found = ClipPatches(tower).pixels([image(*size)])[0]
    short = min(size)
    resized = image(*size).resize(tuple(s * 28 // short for s in size), Image.Resampling.BICUBIC)
    left, top = (resized.width - 28) // 2, (resized.height - 28) // 2
    crop = np.asarray(resized.crop((left, top, left + 28, top + 28)), np.float32) / 255
    expected = ((crop - np.array(MEAN)) / np.array(STD)).transpose(2, 0, 1)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)


def test_a_grey_image_is_read_as_rgb(tower):
    grey = image(30, 30).convert("L")
    patches = ClipPatches(tower)
    torch.testing.assert_close(patches.pixels([grey]), patches.pixels([grey.convert("RGB")]))


def test_a_saved_tower_is_loaded_without_copying_weights_to_float32(tower, tmp_path):
    tower.save_pretrained(tmp_path)
    patches = load_tower(tmp_path, torch.device("cpu"), torch.bfloat16)
    assert {p.dtype for p in patches.model.parameters()} == {torch.bfloat16}
    assert patches([image(30, 40)]).shape == (1, 4, 48)
    assert sum(p.numel() for p in patches.model.parameters()) < sum(p.numel() for p in tower.parameters())


def test_an_official_clip_verifier_scores_images_with_its_tower(official, tower, tmp_path):
    tower.save_pretrained(tmp_path / "tower")
    folder = official(48, {"mm_vision_tower": OFFICIAL, "mm_vision_select_feature": "patch"})
    verifier = verifiers.create("mllm-clip", checkpoint=folder, clip=tmp_path / "tower")
    prompts, images = ["a dog", "a red clock"], [image(64, 48), image(40, 90)]
    together = verifier.score(prompts, images).p_yes
    alone = torch.cat([verifier.score([p], [i]).p_yes for p, i in zip(prompts, images, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert verifier.info().tokens == 4
    assert verifier.card.vision_tower == OFFICIAL


def test_a_tower_of_another_width_or_none_is_refused(official, tower, tmp_path):
    tower.save_pretrained(tmp_path / "tower")
    folder = official(64, {"mm_vision_tower": OFFICIAL, "mm_vision_select_feature": "patch"})
    with pytest.raises(CheckpointError, match=r"are 48 wide, but .* has shape \[H, 64\]"):
        verifiers.create("mllm-clip", checkpoint=folder, clip=tmp_path / "tower")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text(json.dumps({"model_type": "clip_vision_model"}))
    with pytest.raises(CheckpointError, match="holds no CLIP that can be read"):
        verifiers.create("mllm-clip", checkpoint=folder, clip=tmp_path / "empty")
