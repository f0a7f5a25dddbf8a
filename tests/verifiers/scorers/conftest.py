"""Small models of the real classes whose weights and pictures depend on no random number generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from open_clip import CLIP
from PIL import Image
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from vhsbench.verifiers.clip import save_clip

LETTERS = "abcdefghijklmnopqrstuvwxyz,.?!\"'0123456789:"


def set_weights(module: nn.Module) -> nn.Module:
    """Give a module weights that any library makes alike: by name, in order; matrices of the size of trained ones."""
    for number, (_, weight) in enumerate(sorted(module.state_dict().items())):
        if not weight.is_floating_point():
            continue
        wave = torch.sin(0.7 * torch.arange(weight.numel(), dtype=torch.float64) ** 1.1 + number)
        middle, size = (0.0, (2 / weight[0].numel()) ** 0.5) if weight.ndim > 1 else (0.5, 0.2)
        weight.copy_(middle + size * wave.reshape(weight.shape))
    return module.eval()


def picture(width: int, height: int, number: int) -> Image.Image:
    """Waves of three colours."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin((number + 1) * x / 5 + c + y / (4 + number)) for c in range(3)]
    return Image.fromarray((127.5 * (1 + np.stack(waves, -1))).round().astype(np.uint8))


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    return [picture(40, 28, 0), picture(32, 32, 1), picture(50, 61, 2), picture(28, 28, 7)]


def save_clip_model(folder: Path) -> Path:
    """Write a CLIPModel and CLIPTokenizer as transformers does."""
    ends = ["<|startoftext|>", "<|endoftext|>"]
    pieces = [*LETTERS, *(letter + "</w>" for letter in LETTERS), *ends]
    tokenizer = CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "projection_dim": 24}  # fmt: skip
    text = tower | {"vocab_size": len(pieces), "max_position_embeddings": 40, "bos_token_id": len(pieces) - 2,
                    "eos_token_id": len(pieces) - 1, "pad_token_id": len(pieces) - 1}  # fmt: skip
    config = CLIPConfig(
        text_config=text, vision_config=tower | {"image_size": 28, "patch_size": 7}, projection_dim=24
    )
    model = set_weights(CLIPModel(config))
    model.logit_scale.data.fill_(3.0)
    model.visual_projection.weight.data.neg_()  # so that most scores are above 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


OPEN_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 28, "patch_size": 7, "width": 32, "layers": 2, "head_width": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2},
}


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory) -> Path:
    return save_clip_model(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def open_clip_small() -> tuple[dict[str, Any], CLIP]:
    return OPEN_CLIP, set_weights(CLIP(**OPEN_CLIP))


@pytest.fixture(scope="session")
def open_clip_folder(tmp_path_factory, open_clip_small) -> Path:
    config, model = open_clip_small
    save_clip(folder := tmp_path_factory.mktemp("open_clip"), model, config)
    return folder
