"""The counter against formulas by hand, against torch's own counter mode, and against fvcore."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderDC, SanaTransformer2DModel
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen2Config, Qwen2Model

from vhsbench import generators, verifiers
from vhsbench.harness.cost.counting import count_pipeline, usual_prompt
from vhsbench.harness.cost.flops import count
from vhsbench.harness.cost.stages import stages


def test_flops_by_hand():
    x, w = torch.randn(3, 5), torch.randn(7, 5)
    assert count(lambda: F.linear(x, w)).tflop == pytest.approx(2 * 3 * 5 * 7 / 1e12)
    image, kernel = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3)
    convolution = 2 * 4 * 3 * 9 * 8 * 8
    assert count(lambda: F.conv2d(image, kernel, padding=1)).tflop == pytest.approx(convolution / 1e12)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("options", [{}, {"is_causal": True}])
def test_attention_is_its_two_products_fused_or_not(device, options):
    q = torch.empty(1, 2, 11, 8, device=device)
    by_hand = 2 * 2 * 2 * 11 * 11 * 8
    cost = count(lambda: F.scaled_dot_product_attention(q, q, q, **options))
    assert cost.tflop == pytest.approx(by_hand / 1e12)
    assert not cost.uncounted
    narrow = q[:, :1]
    grouped = count(lambda: F.scaled_dot_product_attention(q, narrow, narrow, enable_gqa=True))
    assert grouped.tflop == pytest.approx(by_hand / 1e12)


def test_the_fused_layer_of_multi_head_attention_is_counted_in_its_parts():
    layer, x = (
        nn.MultiheadAttention(16, 2, batch_first=True).eval().requires_grad_(False),
        torch.randn(1, 9, 16),
    )
    cost = count(lambda: layer(x, x, x, need_weights=False))
    assert cost.tflop == pytest.approx((2 * 9 * 16 * 64 + 4 * 9 * 9 * 16) / 1e12)
    assert not cost.uncounted


def test_weights_are_counted_once_and_read_as_often_as_used():
    layer, x = nn.Linear(6, 6, bias=False).requires_grad_(False), torch.randn(2, 6)
    cost = count(lambda: layer(layer(x)))
    assert cost.parameters == 36
    assert cost.weight_bytes == 2 * 36 * 4
    assert cost.activation_bytes == 4 * 2 * 6 * 4  # in and out, twice


def test_an_operator_that_computes_without_a_formula_is_listed():
    assert set(count(lambda: torch.linalg.inv(torch.eye(3))).uncounted) >= {"aten::linalg_inv_ex"}
    assert set(count(lambda: torch.fft.fft(torch.ones(8))).uncounted) == {"aten::_fft_r2c"}
    plain = count(lambda: (torch.ones(3) + 1).softmax(0))
    assert not plain.uncounted
    assert "aten::_softmax" in plain.ignored


def test_a_value_that_a_layer_needs_cuts_nothing_short():
    class Reads(nn.Module):
        def forward(self, x):
            return x.cpu() @ x.cpu().T

    x = torch.empty(4, 4, device="meta")
    with pytest.raises(NotImplementedError, match="meta"):
        count(lambda: Reads()(x))
    assert count(lambda: (x @ x).cpu()).tflop == pytest.approx(2 * 64 / 1e12)  # the end of a stage
    assert count(lambda: x @ x if (x > 0).all() else x).tflop > 0


PRODUCTS = {"linear", "conv", "matmul", "bmm", "addmm", "einsum", "baddbmm"}


class LastState(Qwen2Model):
    """Returns a tensor, which fvcore's tracing needs."""

    def forward(self, ids):
        return super().forward(ids, use_cache=False).last_hidden_state


def small_models() -> dict[str, tuple[nn.Module, tuple[object, ...]]]:
    torch.manual_seed(0)
    dit = SanaTransformer2DModel(
        in_channels=8, out_channels=8, num_attention_heads=4, attention_head_dim=16, num_layers=2,
        num_cross_attention_heads=4, cross_attention_head_dim=16, cross_attention_dim=64,
        caption_channels=32, sample_size=16, patch_size=1,
    )  # fmt: skip
    ae = AutoencoderDC(
        in_channels=3, latent_channels=8, attention_head_dim=8,
        encoder_block_types="ResBlock", decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(16, 32), decoder_block_out_channels=(16, 32),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), ()), decoder_qkv_multiscales=((), (5,)),
    )  # fmt: skip
    llm = LastState(
        Qwen2Config(
            hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, vocab_size=100, attn_implementation="eager",
        )
    )  # fmt: skip
    return {
        "dit": (dit, (torch.randn(1, 8, 16, 16), torch.randn(1, 20, 32), torch.tensor([1.0]))),
        "decoder": (ae.decoder, (torch.randn(1, 8, 16, 16),)),
        "llm": (llm, (torch.randint(0, 100, (1, 64)),)),
    }


@pytest.mark.parametrize("name", ["dit", "decoder", "llm"])
def test_fvcore_agrees(name, monkeypatch):
    """fvcore counts a multiply-add as one: twice its number is ours, within 2%, over linear layers,
    convolutions and matrix products. It has no formula for fused attention, whose two products are
    added here; it counts norms and interpolation, which we leave out."""
    from fvcore.nn import FlopCountAnalysis

    model, inputs = small_models()[name]
    model = model.eval().requires_grad_(False)
    with torch.no_grad():
        analysis = FlopCountAnalysis(model, inputs).unsupported_ops_warnings(False)
        by_operator = analysis.by_operator()
    assert set(by_operator) - PRODUCTS <= {"layer_norm", "upsample_nearest2d"}
    macs = sum(v for k, v in by_operator.items() if k in PRODUCTS)
    attention, original = [], F.scaled_dot_product_attention

    def noted(q, k, v, *args, **kwargs):
        attention.append(2 * q.numel() * k.shape[-2])
        return original(q, k, v, *args, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", noted)
    ours = count(lambda: model(*inputs)).tflop * 1e12
    assert ours == pytest.approx(2 * (macs + sum(attention)), rel=0.02)


def test_torchs_counter_mode_agrees(nano):
    cond, noise = nano.encode(["a photo of a red heart"]), nano.noise([0])
    ours = count(lambda: nano.denoise(cond, noise)).tflop * 1e12
    math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with math, FlopCounterMode(display=False) as counter:
        nano.denoise(cond, noise)
    assert ours == pytest.approx(counter.get_total_flops())


def test_a_pipeline_counts_alike_on_meta_and_where_it_runs(nano):
    there = generators.create("nano")
    there.pipeline.to("meta")
    costs = {}
    for generator in (nano, there):
        cond, noise = generator.encode(["a photo of a red heart"]), generator.noise([0])
        latents = generator.denoise(cond, noise)
        costs[generator] = [
            count(lambda g=generator: g.encode(["a photo of a red heart"])),
            count(lambda g=generator, c=cond, n=noise: g.head(c, n, 2)),
            count(lambda g=generator, c=cond, n=noise: g.denoise(c, n)),
            count(lambda g=generator, x=latents: g.decode(x)),
        ]
    for here, meta in zip(costs[nano], costs[there], strict=True):
        assert meta.tflop == pytest.approx(here.tflop)
        assert (meta.parameters, meta.weight_bytes) == (here.parameters, here.weight_bytes)
        assert meta.activation_bytes == here.activation_bytes


@pytest.mark.parametrize("verifier", [None, "vhs", "mllm-ae", "mllm-clip"])
def test_counting_a_pipeline_is_counting_its_stages(nano, verifier):
    counted = count_pipeline("nano", verifier)
    judge = verifiers.create(verifier) if verifier else None
    here = {name: count(call) for name, call in stages(nano, judge, usual_prompt("nano")).items()}
    assert set(here) == set(counted.stages)
    for name, cost in here.items():
        assert counted.stages[name].tflop == pytest.approx(cost.tflop), name
        assert not cost.uncounted
    if verifier == "vhs":
        whole = count_pipeline("nano", None).stages["denoise"].tflop
        assert counted.stages["head"].tflop + counted.stages["tail"].tflop == pytest.approx(whole, rel=0.02)
