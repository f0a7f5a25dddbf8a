"""Linear layers in 8-bit floats: near the exact ones, and in the LLM's MLPs alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vhsbench import generators, verifiers
from vhsbench.harness.cost import variants
from vhsbench.harness.cost.fp8 import FLOAT8, Fp8Linear, quantize
from vhsbench.harness.inference.best_of_n import best_of_n

PROMPT = "a photo of a red heart"


@pytest.mark.parametrize("by_token", [True, False])
@pytest.mark.parametrize("rows", [(3,), (2, 20)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_8_bits_computes_the_same_up_to_its_rounding(rows, bias, by_token):
    torch.manual_seed(0)
    layer = nn.Linear(64, 32, bias=bias)
    x = torch.randn(*rows, 64)
    found, expected = Fp8Linear(layer, by_token)(x), layer(x)
    assert found.shape == expected.shape
    assert 1e-3 < float((found - expected).norm() / expected.norm()) < 0.06


def test_tokens_are_scaled_each_by_itself_or_cut():
    exact = nn.Linear(2, 1, bias=False)
    exact.weight.data = torch.tensor([[448.0, 448.0]])
    x = torch.tensor([[1e-4, 0.0], [0.0, 4480.0]])
    assert Fp8Linear(exact)(x).flatten().tolist() == pytest.approx([448e-4, 448.0 * 4480], rel=1e-6)
    assert Fp8Linear(exact, by_token=False)(x).flatten().tolist() == [0.0, 448.0 * 448]


class Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(16, width), nn.Linear(16, width)
        self.down_proj = nn.Linear(width, 16)


def test_the_mlps_of_an_llm_are_replaced_and_odd_sizes_stay():
    mlps = [Mlp(32), Mlp(40)]
    llm = nn.Sequential(nn.Linear(16, 16), *(nn.Sequential(mlp) for mlp in mlps))
    assert quantize(llm) == 3
    assert [mlps[0].gate_proj.by_token, mlps[0].down_proj.by_token] == [True, False]
    assert mlps[0].up_proj.levels.dtype == FLOAT8
    assert all(isinstance(layer, nn.Linear) for layer in (llm[0], mlps[1].gate_proj, mlps[1].down_proj))
    assert mlps[0].up_proj(torch.zeros(0, 16)).shape == (0, 32)


def test_a_pipeline_without_an_llm_says_so_and_one_with_nothing_to_round_is_refused(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    remarks = variants.make("fast-fp8", generators.create("nano"), None)
    assert remarks[0] == "fast-fp8 is fast here: there is no LLM of ours"
    monkeypatch.setattr("vhsbench.harness.cost.fp8._MULTIPLE", 1_000)
    with pytest.raises(variants.VariantError, match="no MLP of 'vhs' has channels in multiples of 16"):
        variants.make("fast-fp8", generators.create("nano"), verifiers.create("vhs"))


def test_fast_fp8_scores_near_the_plain_pipeline_and_leaves_features_and_images(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    generator, verifier = generators.create("nano"), verifiers.create("vhs")
    plain = best_of_n(generator, verifier, PROMPT, range(4), 4).scores
    moved, _ = variants.apply("fast-fp8", generator, verifier, [PROMPT])
    mlps = [m for m in verifier.model.llm.model.modules() if hasattr(m, "gate_proj")]
    assert len(mlps) == len(verifier.model.llm.model.layers)
    assert all(isinstance(mlp.gate_proj, Fp8Linear) for mlp in mlps)
    assert moved["features_percent"] < 1e-3
    assert moved["image_difference"] <= 1
    found = best_of_n(generator, verifier, PROMPT, range(4), 4).scores
    assert 0 < float((found - plain).abs().max()) < 0.3


def test_the_text_before_the_image_is_read_exactly(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    exact, rounded = (
        {"generator": generators.create("nano"), "verifier": verifiers.create("vhs")} for _ in range(2)
    )
    variants.make("fast", **exact)
    variants.make("fast-fp8", **rounded)
    for one, other in zip(*(p["verifier"].model.llm.model.layers for p in (exact, rounded)), strict=True):
        assert torch.equal(one.self_attn.keys_before, other.self_attn.keys_before)


def test_a_gpu_without_8_bit_floats_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    generator = SimpleNamespace(name="nano", device=torch.device("cuda"))
    with pytest.raises(
        variants.VariantError, match=r"'fast-fp8' needs a GPU of compute capability 8\.9 or later"
    ):
        variants.make("fast-fp8", generator, None)
