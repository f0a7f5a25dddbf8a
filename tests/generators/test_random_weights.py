"""Random weights: the true architectures' sizes and costs, counted without memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from vhsbench import generators
from vhsbench.generators import SPECS, random_weights
from vhsbench.generators.random_weights import HashTokenizer, build
from vhsbench.harness.cost import flops

REAL = [name for name, spec in SPECS.items() if spec.hub_id]
# billions of parameters of the DiT and TFLOP of one forward, counted independently
DIT = {
    "sana-sprint": (1.610, 2.967),
    "sana-1.5": (1.605, 2.967),
    "pixart-alpha-dmd": (0.611, 1.236),
    "flux-schnell": (11.89, 69.47),
    "sd3.5-turbo": (8.06, 31.12),
}


def count(*modules: torch.nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


def counted(call: Callable[[], Any]) -> tuple[float, Any]:
    """TFLOP of a call, and what it returns."""
    found = []
    return flops.count(lambda: found.append(call())).tflop, found[0]


@pytest.mark.parametrize("name", REAL)
def test_meta_builds_the_true_architecture_and_runs_every_stage(name):
    spec = SPECS[name]
    generator = generators.create(name, weights="random", device="meta", steps=1, guidance_scale=1.0)
    parts = generator.pipeline.components
    models = [m for m in parts.values() if isinstance(m, torch.nn.Module)]
    assert all(t.is_meta for m in models for t in (*m.parameters(), *m.buffers()))  # so that none is computed
    text = [m for k, m in parts.items() if k.startswith("text_encoder")]
    assert count(parts["transformer"]) == spec.parameters
    assert count(*text) == spec.text_parameters
    assert count(parts["vae"]) == spec.vae_parameters
    assert spec.parameters / 1e9 == pytest.approx(DIT[name][0], rel=0.01)
    info = generator.info()
    assert (info.blocks, info.tokens, info.hidden_width) == (spec.blocks, spec.tokens, spec.hidden_width)
    assert {p.dtype for p in parts["transformer"].parameters()} == {torch.bfloat16}

    encode, cond = counted(lambda: generator.encode(["a photo of a bench"]))
    noise = generator.noise([0])
    assert noise.shape == (1, spec.latent_channels, spec.latent_size, spec.latent_size)
    head, hidden = counted(lambda: generator.head(cond, noise, 7))
    assert hidden.features.shape == (1, spec.tokens, spec.hidden_width)
    tail, latents = counted(lambda: generator.tail(hidden))
    assert latents.shape == noise.shape
    decode, (pixels,) = counted(lambda: generator.decode(latents))
    assert pixels.shape == (3, spec.resolution, spec.resolution)
    assert head + tail == pytest.approx(DIT[name][1], rel=0.01)
    assert head / (head + tail) == pytest.approx(8 / spec.blocks, rel=0.6)
    assert (encode > 1, decode > 2) == (True, True)


def test_the_counts_of_the_parts_of_sana_sprint():
    generator = generators.create("sana-sprint", weights="random", device="meta")
    assert count(generator.pipeline.text_encoder) / 1e9 == pytest.approx(2.614, rel=0.01)
    assert count(generator.pipeline.vae.decoder) / 1e9 == pytest.approx(0.159, rel=0.01)
    latents = generator.noise([0])
    assert flops.count(lambda: generator.decode(latents)).tflop == pytest.approx(8.369, rel=0.01)


@pytest.mark.parametrize(("name", "steps"), [("sana-sprint", 2), ("sana-1.5", 2)])
def test_meta_counts_several_steps_and_guidance(name, steps):
    generator = generators.create(name, weights="random", device="meta", steps=steps)
    cond, noise = generator.encode(["a"]), generator.noise([0])
    rows = 2 if generator.guided else 1
    head, hidden = counted(lambda: generator.head(cond, noise, 7))
    tail, _ = counted(lambda: generator.tail(hidden))
    assert head + tail == pytest.approx(DIT[name][1] * steps * rows, rel=0.01)
    assert tail < DIT[name][1] * rows


@pytest.fixture
def narrow(tmp_path, monkeypatch):
    """SANA-Sprint's configuration with few and narrow layers, so that it fits on this machine."""
    config = json.loads((random_weights.CONFIGS / "sana-sprint.json").read_text())
    sizes = {
        "transformer": {"num_layers": 4, "num_attention_heads": 8, "num_cross_attention_heads": 2, "cross_attention_head_dim": 128,
                        "cross_attention_dim": 256, "caption_channels": 64},
        "text_encoder": {"num_hidden_layers": 2, "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 128,
                         "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32},
        "tokenizer": {"vocabulary": 1000},
        "vae": {"encoder_block_out_channels": [32] * 6, "decoder_block_out_channels": [32] * 6},
    }  # fmt: skip
    for part, narrower in sizes.items():
        config["components"][part][2] |= narrower
    (tmp_path / "sana-sprint.json").write_text(json.dumps(config))
    monkeypatch.setattr(random_weights, "CONFIGS", tmp_path)


def test_real_tensors_are_made_in_the_chosen_dtype_and_by_the_seed(narrow):
    cpu = torch.device("cpu")
    one, same, other = (build("sana-sprint", cpu, torch.bfloat16, seed, cpu) for seed in (0, 0, 1))
    weights = [dict(p.transformer.named_parameters()) for p in (one, same, other)]
    assert {w.dtype for w in weights[0].values()} == {torch.bfloat16}
    assert all(torch.equal(w, weights[1][n]) for n, w in weights[0].items())
    assert not torch.equal(weights[0]["proj_out.weight"], weights[2]["proj_out.weight"])
    buffers = dict(one.text_encoder.named_buffers())
    frequencies = [b for n, b in buffers.items() if "inv_freq" in n]
    assert frequencies
    assert {f.dtype for f in frequencies} == {torch.float32}  # rounded, they would move every position


def test_bfloat16_activations_stay_finite(narrow):
    generator = generators.create("sana-sprint", weights="random", resolution=64)
    cond, noise = generator.encode(["a photo of a bench", "two dogs"]), generator.noise([1, 2])
    hidden = generator.head(cond, noise, 0)
    latents = generator.tail(hidden)
    assert torch.equal(latents, generator.denoise(cond, noise))
    pixels = generator.pixels(latents)
    assert pixels.isfinite().all()
    assert pixels.std() > 0
    assert [i.size for i in generator.decode(latents)] == [(64, 64)] * 2


def test_the_stand_in_tokenizer_pads_to_the_true_length_and_knows_its_prompt():
    tokenizer = HashTokenizer(1000, 77)
    found = tokenizer(["a photo of a bench", "a photo, of dogs"], padding="max_length", max_length=12)
    assert found.input_ids.shape == (2, 12)
    assert found.attention_mask.sum(1).tolist() == [6, 6]
    assert found.input_ids.max() < 1000
    again = HashTokenizer(1000, 77)(["a photo of a bench"], padding="longest")
    assert again.input_ids[0].tolist() == found.input_ids[0, :6].tolist()
    assert tokenizer(["one two three four"], padding="max_length", max_length=3).input_ids.shape == (1, 3)
