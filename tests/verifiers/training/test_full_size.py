"""A VHS of the paper's shapes on the CPU: SANA-Sprint's hidden states, Qwen2.5-0.5B with one layer."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from vhsbench.generators import specs
from vhsbench.verifiers.checkpoint import read_card
from vhsbench.verifiers.loading import QWEN_0_5B
from vhsbench.verifiers.training.data import Data
from vhsbench.verifiers.training.log import read
from vhsbench.verifiers.training.recipe import Recipe
from vhsbench.verifiers.training.train import train_verifier


@pytest.fixture(scope="module")
def llm(tmp_path_factory, qwen_tokenizer):
    """A folder as the hub's Qwen/Qwen2.5-0.5B-Instruct, of one layer and random weights."""
    folder = tmp_path_factory.mktemp("qwen")
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**QWEN_0_5B | {"num_hidden_layers": 1})).bfloat16()
    model.save_pretrained(folder)
    qwen_tokenizer.save_pretrained(folder)
    return folder


def test_a_full_size_vhs_takes_optimiser_steps_on_the_cpu(llm, shards, tmp_path):
    spec = specs.get("sana-sprint")
    card = {
        "generator": "sana-sprint", "revision": "main", "block": 7, "dtype": "bfloat16",
        "feature_shape": (spec.tokens, spec.hidden_width),
    }  # fmt: skip
    data = Data(shards(tmp_path / "train", 4, 0, **card), shards(tmp_path / "validation", 1, 1, **card))
    recipe = Recipe.model_validate(
        {
            "verifier": {"kind": "vhs", "block": 7, "llm": {"name": str(llm)}},
            "align": {"batch": 1, "steps": 2},
            "finetune": {"batch": 1, "steps": 1},
            "engine": {"micro_batch": 1, "log_every": 1, "save_every": 1000},
        }
    )
    folder = train_verifier(recipe, "sana-sprint", data, tmp_path / "out")
    assert (read_card(folder).feature_width, read_card(folder).visual_tokens) == (2240, 1024)
    shapes = {k: tuple(v.shape) for k, v in load_file(folder / "model.safetensors").items()}
    assert shapes["model.mm_projector.0.weight"] == (896, 2240)
    assert shapes["model.mm_projector.2.weight"] == (896, 896)
    assert shapes["model.embed_tokens.weight"] == (151936, 896)
    assert load_file(folder / "normalization.safetensors")["mean"].shape == (2240,)
    # a random model knows nothing: the loss starts near log(vocabulary) = 11.9
    losses = [float(r["loss"]) for r in read(tmp_path / "out") if r["split"] == "train"]
    assert len(losses) == 3
    assert losses[0] == pytest.approx(11.9, abs=1.0)
    assert losses[1] < losses[0]
