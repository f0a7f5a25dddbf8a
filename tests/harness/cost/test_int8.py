"""Linear layers in 8 bits: near the exact ones, and in the LLM alone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vhsbench import generators, verifiers
from vhsbench.harness.cost import variants
from vhsbench.harness.cost.int8 import Int8Linear, quantize
from vhsbench.harness.inference.best_of_n import best_of_n


@pytest.mark.parametrize("rows", [(3,), (2, 20)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_8_bits_computes_the_same_up_to_its_rounding(rows, bias):
    torch.manual_seed(0)
    layer = nn.Linear(64, 32, bias=bias)
    x = torch.randn(*rows, 64)
    found, expected = Int8Linear(layer)(x), layer(x)
    assert found.shape == expected.shape
    assert 1e-5 < float((found - expected).norm() / expected.norm()) < 0.02


def test_every_linear_layer_is_replaced_and_integers_stay_exact():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.GELU(), nn.Linear(4, 2)))
    assert quantize(model) == 2
    assert not any(isinstance(m, nn.Linear) for m in model.modules())
    exact = nn.Linear(3, 1, bias=False)
    exact.weight.data = torch.tensor([[127.0, -1.0, 2.0]])
    x = torch.tensor([[127.0, 127.0, 0.0]]).repeat(20, 1)
    assert Int8Linear(exact)(x).tolist() == [[127.0 * 126]] * 20


def test_fast_int8_scores_near_the_plain_pipeline_and_leaves_features_and_images(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    generator, verifier = generators.create("nano"), verifiers.create("vhs")
    plain = best_of_n(generator, verifier, "a photo of a red heart", range(4), 4).scores
    moved, _ = variants.apply("fast-int8", generator, verifier, ["a photo of a red heart"])
    assert moved["features_percent"] < 1e-3
    assert moved["image_difference"] <= 1
    found = best_of_n(generator, verifier, "a photo of a red heart", range(4), 4).scores
    assert 0 < float((found - plain).abs().max()) < 0.3
