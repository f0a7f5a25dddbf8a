"""What batching saves. By default each is run once and checked; to measure, and for the ratios:

pytest tests/verifiers/test_benchmark.py --benchmark-enable --benchmark-group-by=group

On a machine that is busy, --benchmark-timer=time.process_time counts CPU time.
"""

from __future__ import annotations

import pytest
import torch

from vhsbench import verifiers
from vhsbench.generators import specs
from vhsbench.verifiers.loading import random_verifier

MID_SIZE = {
    "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip
PROMPT = "a photo of a red circle"
CANDIDATES = (4, 9, 15)
ROUNDS = {"rounds": 9, "warmup_rounds": 2}


@pytest.fixture(scope="module")
def models():
    """(verifier, tokens, width) of nano and of a mid-size model that reads 256 tokens."""
    mid = random_verifier("vhs", specs.get("sana-sprint"), None, torch.device("cpu"), torch.float32, MID_SIZE)
    return {"nano": (verifiers.create("vhs"), 64, 128), "mid-size": (mid, 256, 2240)}


def batched(verifier, features):
    return verifier.score([PROMPT] * len(features), features)


def one_at_a_time(verifier, features):
    found = [verifier.score([PROMPT], row) for row in features.split(1)]
    return type(found[0])(*(torch.cat([getattr(s, k) for s in found]) for k in ("p_yes", "p_no", "score")))


@pytest.mark.parametrize("way", ["batched", "one_at_a_time", "with_cached_prefix"])
@pytest.mark.parametrize("n", CANDIDATES)
@pytest.mark.parametrize("model", ["nano", "mid-size"])
def test_scoring(benchmark, models, cached_prefix, model, n, way):
    benchmark.group = f"scoring {n} candidates, {model}"
    verifier, tokens, width = models[model]
    n = 2 if benchmark.disabled else n  # enough to check that the ways agree
    features = torch.randn(n, tokens, width, generator=torch.Generator().manual_seed(0))
    ways = {
        "batched": batched,
        "one_at_a_time": one_at_a_time,
        "with_cached_prefix": lambda v, read: cached_prefix(v, [PROMPT] * len(read), read),
    }
    found = benchmark.pedantic(ways[way], (verifier, features), **ROUNDS)
    expected = batched(verifier, features)
    for name in ("p_yes", "p_no", "score"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=1e-5)
