"""The LoRA's training: the base stays, the file is small and plain, the drawings differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from vhsbench import generators
from vhsbench.generators.lora import FILE
from vhsbench.generators.nano import LORA
from vhsbench.generators.nano.lora import LoraRecipe, styled, train_lora
from vhsbench.generators.nano.scenes import draw, random_scenes
from vhsbench.harness.cli import app
from vhsbench.harness.geneval.nano_prompts import nano_prompts


def test_the_bundled_file_is_small_and_has_the_layers_of_the_recipe():
    tensors = load_file(LORA / FILE)
    assert sum(t.numel() for t in tensors.values()) == 131_072
    assert len(tensors) == 8 * 2 * 4 * 2  # blocks, attentions, projections, A and B
    assert all(t.dtype == torch.float16 and LoraRecipe().rank in t.shape for t in tensors.values())
    assert any(t.abs().max() > 0 for name, t in tensors.items() if "lora_B" in name)
    card = (LORA / "README.md").read_text()
    for name, value in vars(LoraRecipe()).items():
        assert f"| {name} | {value} |" in card


def test_the_style_is_paler_and_smaller():
    scene = random_scenes(np.random.default_rng(0), np.array([3]))
    plain, drawn = draw(scene), styled(scene, LoraRecipe())
    assert (drawn - 0.6).abs().max() < (plain - 0.6).abs().max()
    assert ((drawn - 0.6).abs() > 0.05).sum() < ((plain - 0.6).abs() > 0.05).sum()


def test_training_moves_the_lora_alone_and_lowers_the_loss(tmp_path):
    pipeline = generators.create("nano").pipeline
    before = {k: v.clone() for k, v in pipeline.transformer.state_dict().items()}
    losses: list[float] = []
    recipe = LoraRecipe(steps=12, batch=8, rank=2, learning_rate=5e-3)
    train_lora(pipeline, nano_prompts()["train"], tmp_path, recipe, lambda p: losses.append(p.loss))
    after = pipeline.transformer.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[k], before[k]) for k in before)
    assert losses[-1] < losses[0]
    assert {f.name for f in tmp_path.iterdir()} == {FILE, "README.md"}
    assert sum(t.abs().sum().item() > 0 for k, t in load_file(tmp_path / FILE).items() if "lora_B" in k) == 64


def test_the_command(tmp_path):
    said = CliRunner().invoke(
        app, ["train", "lora", "--steps", "1", "--out", str(tmp_path / "lora"), "--threads", "1"]
    )
    assert said.exit_code == 0, said.output
    pipeline = generators.create("nano").pipeline
    pipeline.load_lora_weights(tmp_path / "lora", adapter_name="again")
    assert pipeline.get_active_adapters() == ["again"]
    assert said.stdout.startswith("LoRA: ") or pytest.fail(said.stdout)
