"""Rewritten parts compute what torch's do."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vhsbench import generators
from vhsbench.harness.cost import fast, rewritten


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("groups", "out"), [(4, 12), (12, 12), (2, 8)])
def test_a_rewritten_convolution_computes_the_same(groups, out, bias):
    torch.manual_seed(0)
    layer = nn.Conv2d(12, out, 1, groups=groups, bias=bias)
    model = nn.Sequential(nn.Sequential(layer))
    rewritten.rewrite(model)
    assert isinstance(model[0][0], rewritten.GroupedProduct)
    x = torch.randn(2, 12, 7, 5)
    for like in (x, x.to(memory_format=torch.channels_last)):
        found, expected = model(like), layer(like)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    copied = copy.deepcopy(model)
    copied[0][0].convolution.weight.data.zero_()
    assert not torch.equal(copied(x), model(x))  # a copy computes with its own weights


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1, stride=2, groups=2),
     nn.Conv2d(4, 4, 1, padding=1, groups=2)],
)  # fmt: skip
def test_other_convolutions_stay_as_they_are(layer):
    model = nn.Sequential(layer)
    rewritten.rewrite(model)
    assert model[0] is layer


def test_a_decoders_last_norm_is_compiled_by_itself(nano):
    decoder = copy.deepcopy(nano.pipeline.vae.decoder)
    latents = torch.randn(1, nano.latent_channels, 8, 8)
    graphs = []

    def backend(module, inputs):
        graphs.append(module)
        return module.forward

    with torch.inference_mode():
        expected = decoder(latents)
        rewritten.rewrite(decoder)
        found = torch.compile(decoder, backend=backend)(latents)
    torch._dynamo.reset()
    torch.testing.assert_close(found, expected)
    assert [("rsqrt" in str(graph.code), "conv" in str(graph.code)) for graph in graphs[1:]] == [
        (True, False), (False, True),
    ]  # fmt: skip


def test_on_a_gpu_the_decoder_is_rewritten_before_it_is_compiled(monkeypatch):
    """A stand-in for a GPU: the order of calls is all that is looked at."""
    done = []
    monkeypatch.setattr(fast, "rewrite", lambda model: done.append(("rewritten", model)))
    monkeypatch.setattr(
        fast, "compile_each", lambda calls, *_, **__: done.extend(("compiled", o) for o, _ in calls)
    )
    monkeypatch.setattr(fast, "no_compiler", lambda device: "")
    generator = generators.create("nano")
    decoder, blocks = generator.pipeline.vae.decoder, list(generator.pipeline.transformer.transformer_blocks)
    stand_in = SimpleNamespace(device=torch.device("cuda"), modules=generator.modules)
    for speed_up in (
        lambda: fast.speed_up(stand_in, None, blocks, ("compile",)),
        lambda: fast.speed_up_pool(stand_in, [], blocks),
    ):
        done.clear()
        speed_up()
        assert [m for what, m in done if what == "rewritten"] == [decoder]
        assert [m for what, m in done if what == "compiled"] == [*blocks, decoder]
        assert done.index(("rewritten", decoder)) < done.index(("compiled", decoder))
