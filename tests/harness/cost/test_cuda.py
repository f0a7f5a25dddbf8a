"""What only a GPU can show: CUDA events, memory, energy, running out of memory, and graphs."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from vhsbench import generators
from vhsbench.harness.cost import fast, fp8, meters
from vhsbench.harness.cost import measure as measuring
from vhsbench.harness.cost.graphs import CaptureError, Graphed
from vhsbench.harness.cost.measure import Cell
from vhsbench.harness.cost.rounds import measure, measure_in_turns
from vhsbench.harness.cost.timing import TimingConfig
from vhsbench.verifiers import kept

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def cell(**changes) -> Cell:
    timing = TimingConfig(best_of_n=(1, 4), batch_sizes=(4,), repeats=6, warm_up=1)
    cuda = {"device": "cuda"}
    options = {"generator": "nano", "generator_options": cuda, "verifier": "vhs", "verifier_options": cuda}
    return Cell(**options | {"prompt": "a photo of a red heart", "timing": timing} | changes)


def test_both_clocks_memory_and_energy_are_there_and_agree():
    rows = pd.DataFrame(measure_in_turns([cell()])[0].rows)
    assert (rows["status"] != "oom").all()
    assert (rows["event_ms"] > 0).all()
    assert (rows["event_ms"] <= rows["wall_ms"] * 1.05).all()
    assert (rows["peak_vram_gb"] > 0).all()
    assert (rows["peak_reserved_gb"] >= rows["peak_vram_gb"]).all()
    assert rows["peak_rss_gb"].isna().all()
    whole = rows[rows["stage"] == "end_to_end"].groupby(["n", "batch"])["wall_ms"].median()
    assert whole[4, 1] > whole[1, 1]
    assert rows["energy_j"].notna().all()


def test_a_tensor_of_known_size_is_seen_by_the_allocator():
    device = torch.device("cuda")
    before = meters.peak_memory(lambda: None, device, measuring.Gpu.of(device))
    after = meters.peak_memory(
        lambda: torch.ones(250_000_000, dtype=torch.uint8, device=device), device, measuring.Gpu.of(device)
    )
    assert after["peak_vram_gb"] - before["peak_vram_gb"] == pytest.approx(0.25, rel=0.02)


def test_a_call_larger_than_the_gpu_is_a_row_of_status_oom(monkeypatch):
    original = measuring.end_to_end

    def hungry(generator, verifier, prompt, ns, batch=1):
        runs = original(generator, verifier, prompt, ns, batch)
        return runs | (
            {4: lambda: torch.empty(1 << 42, dtype=torch.uint8, device="cuda")} if 4 in runs else {}
        )

    monkeypatch.setattr(measuring, "end_to_end", hungry)
    rows = pd.DataFrame(measure(cell()).rows)
    lost = rows[(rows["stage"] == "end_to_end") & (rows["n"] == 4)]
    assert set(lost["status"]) == {"oom"}
    assert lost["wall_ms"].isna().all()
    assert (rows.drop(lost.index)["wall_ms"] > 0).all()


def test_a_graph_computes_what_the_function_does_for_every_shape():
    linear = torch.nn.Linear(8, 8, device="cuda")
    with torch.inference_mode():
        graphed = Graphed(lambda x, scale=1: (linear(x) * scale,))
        first = torch.randn(3, 8, device="cuda")
        kept = graphed(first)[0]
        for x in (torch.randn(3, 8, device="cuda"), torch.randn(5, 8, device="cuda")):
            for scale in (1, 2):
                torch.testing.assert_close(graphed(x, scale=scale)[0], linear(x) * scale)
        torch.testing.assert_close(kept, linear(first))  # not written over by later replays


def test_a_capture_that_fails_leaves_the_stream_and_random_numbers_as_they_were():
    looks = Graphed(lambda x: x if x.sum().item() else -x)  # at a value, which no graph can
    before = torch.cuda.current_stream()
    torch.cuda.manual_seed(3)
    expected = torch.randn(4, device="cuda")
    torch.cuda.manual_seed(3)
    with pytest.raises(CaptureError):
        looks(torch.ones(3, device="cuda"))
    assert torch.cuda.current_stream() == before
    assert torch.randn(4, device="cuda").equal(expected)
    assert Graphed(lambda x: 2 * x)(torch.ones(3, device="cuda")).tolist() == [2, 2, 2]


def test_attention_after_a_beginning_is_causal_and_no_slow_kernel_computes_it():
    half = {"device": "cuda", "dtype": torch.bfloat16}
    query = torch.randn(2, 14, 37, 64, **half)
    key, value = (torch.randn(2, 2, 37, 64, **half) for _ in range(2))
    keys, values = (torch.randn(1, 2, 13, 64, **half) for _ in range(2))
    seen = torch.ones(37, 50, dtype=torch.bool, device="cuda").tril(13)
    whole = (torch.cat([x.expand(2, -1, -1, -1), y], dim=2) for x, y in ((keys, key), (values, value)))
    grouped = (x.float().repeat_interleave(7, dim=1) for x in whole)
    expected = torch.nn.functional.scaled_dot_product_attention(query.float(), *grouped, attn_mask=seen)
    module = SimpleNamespace(keys_before=keys, values_before=values)
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION]):  # else an error
        found, _ = kept._attend(module, query, key, value, scaling=64**-0.5)
    torch.testing.assert_close(found.transpose(1, 2).float(), expected, rtol=0, atol=0.02)


def test_a_text_encoder_is_a_graph_that_reads_every_prompt_as_before():
    generator = generators.create("nano", device="cuda")
    prompts = ("a photo of a red heart", "two blue stars")
    expected = [generator.encode([prompt]).tensors for prompt in prompts]
    assert fast._graph_encoders(generator) == ""
    for prompt, plain in zip(prompts, expected, strict=True):
        torch.testing.assert_close(dict(generator.encode([prompt]).tensors), dict(plain))
    assert generator.pipeline.text_encoder.forward._graphs


def test_the_cuda_graphs_variant_keeps_the_results():
    measured = measure(cell(variant="cuda-graphs"))
    assert measured.about["image_difference"] <= 1
    assert measured.about["score_difference"] < 1e-3


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < fp8.CAPABILITY,
    reason="needs 8-bit floats",
)
@pytest.mark.parametrize("by_token", [True, False])
def test_8_bit_products_are_those_that_are_computed_without_such_a_gpu(by_token):
    torch.manual_seed(0)
    layer = torch.nn.Linear(896, 256, dtype=torch.bfloat16)
    x = torch.randn(3, 50, 896, dtype=torch.bfloat16)
    expected = fp8.Fp8Linear(layer, by_token)(x)
    found = fp8.Fp8Linear(layer.cuda(), by_token)(x.cuda()).cpu()
    assert found.dtype == torch.bfloat16
    assert float((found - expected).float().norm() / expected.float().norm()) < 0.005
