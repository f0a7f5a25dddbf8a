from __future__ import annotations

import time

import pytest
import torch
from torch.nn import functional as F

from harness.measure import count_tflop, interleaved
from harness.pipeline import best_of_n

CPU = torch.device("cpu")


def test_a_sleep_is_measured_as_long_as_it_is():
    walls = interleaved([lambda: time.sleep(0.02), lambda: time.sleep(0.005)], 5, 1, CPU)
    assert [len(w) for w in walls] == [5, 5]
    assert 19.5 <= min(walls[0]) <= 40
    assert 4.5 <= min(walls[1]) <= 20


def test_calls_take_turns():
    seen: list[str] = []
    interleaved([lambda: seen.append("a"), lambda: seen.append("b")], 2, 1, CPU)
    assert seen == ["a", "b"] * 3


def test_flops_by_hand():
    x, w = torch.randn(3, 5), torch.randn(7, 5)
    assert count_tflop(lambda: F.linear(x, w)) == pytest.approx(2 * 3 * 5 * 7 / 1e12)
    q = torch.randn(1, 2, 11, 8)
    # two products of [11, 8] x [8, 11] and [11, 11] x [11, 8] for each of two heads
    attention = 2 * 2 * 2 * 11 * 11 * 8
    assert count_tflop(lambda: F.scaled_dot_product_attention(q, q, q)) == pytest.approx(attention / 1e12)
    image, kernel = torch.randn(1, 3, 8, 8), torch.randn(4, 3, 3, 3)
    convolution = 2 * 4 * 3 * 9 * 8 * 8
    assert count_tflop(lambda: F.conv2d(image, kernel, padding=1)) == pytest.approx(convolution / 1e12)


@pytest.mark.parametrize("kind", ["vhs", "mllm-ae", "mllm-clip"])
def test_best_of_n_is_the_pools_best_and_batching_changes_nothing(nano, kind):
    import verifiers

    verifier = verifiers.create(kind)
    prompt, seeds = "a photo of a blue cross left of a heart", [3, 1, 4, 1, 5]
    one = best_of_n(nano, verifier, prompt, seeds)
    many = best_of_n(nano, verifier, prompt, seeds, batch=4)
    torch.testing.assert_close(one.scores, many.scores, atol=1e-4, rtol=1e-4)
    assert one.index == int(one.scores.argmax())
    alone = nano.decode(nano.denoise(nano.encode([prompt]), nano.noise([seeds[one.index]])))[0]
    assert one.image.tobytes() == alone.tobytes()


def test_vhs_finishes_the_winner_alone(nano, monkeypatch):
    import verifiers

    calls = []
    for stage in ("head", "tail", "decode", "denoise", "encode"):
        original = getattr(nano, stage)
        monkeypatch.setattr(
            nano, stage, lambda *a, f=original, s=stage, **k: (calls.append(s), f(*a, **k))[1]
        )
    best_of_n(nano, verifiers.create("vhs"), "a photo of a star", range(4))
    counts = {stage: calls.count(stage) for stage in ("encode", "head", "tail", "decode")}
    assert counts == {"encode": 1, "head": 4, "tail": 1, "decode": 1}
