"""Small shards whose features say whether they are right, and a recipe that a few seconds suffice for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vhsbench.verifiers.nano.models import TEMPLATE
from vhsbench.verifiers.training.data import Data
from vhsbench.verifiers.training.recipe import Recipe
from vhsbench.verifiers.training.shards import DataCard, ShardWriter

WriteShards = Callable[..., Path]


def write_shards(folder: Path, samples: int, seed: int, **card: Any) -> Path:
    """Hidden states [4, 128] of "block 5": 32 channels lean as the sample is right or wrong."""
    made = DataCard(
        **{"stage": "labels", "generator": "nano", "revision": "r0", "steps": 1, "reads": "hidden", "block": 5,
           "feature_shape": (4, 128), "dtype": "float32", "prompts_sha256": "00"} | card
    )  # fmt: skip
    random = torch.Generator().manual_seed(seed)
    right = torch.rand(samples, generator=random) < 0.6
    features = 0.3 * torch.randn((samples, *made.feature_shape), generator=random)
    features[..., :32] += torch.where(right, 0.3, -0.3)[:, None, None]
    rows = [
        {"prompt_id": i, "prompt": f"a photo of a star {seed}", "tag": "single_object", "seed": 0, "index": i,
         "caption": "a red star at center" if r else "a blue ring at top left", "correct": bool(r)}
        for i, r in enumerate(right)
    ]  # fmt: skip
    writer = ShardWriter(folder, made)
    for i, start in enumerate(range(0, samples, 50)):
        writer.write(i, features.to(getattr(torch, made.dtype))[start : start + 50], rows[start : start + 50])
    writer.finish()
    return folder


def small_recipe(**changes: Any) -> Recipe:
    """Both stages in a few steps of 16, on a two-layer LLM; `changes` replace whole keys."""
    optimizer = {"name": "muon", "learning_rate": 2e-3, "adamw_learning_rate": 1e-3}
    return Recipe.model_validate(
        {
            "verifier": {
                "kind": "vhs", "block": 5, "template": TEMPLATE, "dtype": "float32",
                "llm": {"name": "nano-new", "sizes": {"num_hidden_layers": 2, "hidden_size": 64}},
            },
            "align": {
                "batch": 16, "steps": 10, "train": "all", "template": "<image> describe the image",
                "optimizer": optimizer,
            },
            "finetune": {"batch": 16, "steps": 30, "validate_every": 10, "optimizer": optimizer},
            "engine": {"threads": 1, "precision": "fp32", "micro_batch": 16, "save_every": 3, "log_every": 1},
        }
        | changes
    )  # fmt: skip


@pytest.fixture(scope="session")
def small() -> Callable[..., Recipe]:
    return small_recipe


@pytest.fixture(scope="session")
def shards() -> WriteShards:
    return write_shards


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Data:
    folder = tmp_path_factory.mktemp("shards")
    return Data(write_shards(folder / "train", 200, 0), write_shards(folder / "validation", 70, 1))
