from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vhsbench import verifiers
from vhsbench.generators import specs
from vhsbench.verifiers.loading import random_verifier
from vhsbench.verifiers.verifier import MllmVerifier

SMALL = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 128, "tie_word_embeddings": True,
}  # fmt: skip
TOKENS = 9


class OfLength:
    """Questions whose text after the image is as long as the prompt, as real prompts differ."""

    yes, no = 7, 9
    yes_ids = (7, 8)
    before_ids = tuple(range(40, 60))

    def after_ids(self, prompts):
        lengths = torch.tensor([len(p) for p in prompts])
        ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long)
        for row, prompt in zip(ids, prompts, strict=True):
            row[: len(prompt)] = torch.tensor([ord(c) for c in prompt])
        return ids, lengths


@pytest.fixture(scope="module")
def verifier() -> MllmVerifier:
    made = random_verifier("vhs", specs.get("nano"), None, torch.device("cpu"), torch.float32, SMALL)
    for parameter in made.model.parameters():
        parameter.mul_(3.0)  # so that answers differ visibly
    made.question = OfLength()
    return made


@settings(max_examples=40)
@given(st.lists(st.text(st.characters(min_codepoint=1, max_codepoint=126), min_size=1, max_size=60),
                min_size=1, max_size=6), st.integers(0, 5))  # fmt: skip
def test_a_candidates_score_does_not_depend_on_the_batch(verifier, prompts, seed):
    features = torch.randn(len(prompts), TOKENS, 128, generator=torch.Generator().manual_seed(seed))
    together = verifier.score(prompts, features)
    for i, prompt in enumerate(prompts):
        alone = verifier.score([prompt], features[i : i + 1])
        for name in ("p_yes", "p_no", "score"):
            torch.testing.assert_close(
                getattr(alone, name)[0], getattr(together, name)[i], atol=1e-5, rtol=1e-5
            )


def test_a_cached_prefix_gives_the_same_answer(verifier, cached_prefix):
    """It is not used, because it does not pay (docs/verifiers.md); this is what was compared."""
    prompts = ["abc", "a longer one", "x"]
    features = torch.randn(3, TOKENS, 128, generator=torch.Generator().manual_seed(0))
    found, other = verifier.score(prompts, features), cached_prefix(verifier, prompts, features)
    assert found.p_yes.std() > 1e-4
    for name in ("p_yes", "p_no", "score"):
        torch.testing.assert_close(getattr(found, name), getattr(other, name), rtol=1e-4, atol=1e-7)


def test_logits_are_computed_for_the_answer_alone(verifier, monkeypatch):
    shapes = []
    head = verifier.model.logits
    monkeypatch.setattr(verifier.model, "logits", lambda states: shapes.append(states.shape) or head(states))
    verifier.score(["a", "bc"], torch.zeros(2, TOKENS, 128))
    assert shapes == [(2, 64)]


def test_one_forward_a_batch(verifier, monkeypatch):
    batches = []
    read = verifier.model.read
    monkeypatch.setattr(
        verifier.model,
        "read",
        lambda b, projected, a: batches.append(len(projected)) or read(b, projected, a),
    )
    verifier.score(["a"] * 5, torch.zeros(5, TOKENS, 128))
    assert batches == [5]


def test_half_precision_features_are_scored(verifier):
    features = torch.randn(2, TOKENS, 128, generator=torch.Generator().manual_seed(0))
    full, half = verifier.score(["a", "b"], features), verifier.score(["a", "b"], features.bfloat16())
    assert half.score.dtype == torch.float32
    torch.testing.assert_close(full.p_yes, half.p_yes, rtol=0.1, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((1, 9, 99), r"reads features of width 128, but was given \[1, 9, 99\]"),
        ((1, 128, 3, 3), r"reads hidden, not a tensor \[1, 128, 3, 3\]"),
        ((2, 9, 128), "1 prompts do not fit 2 features"),
    ],
)
def test_unfit_features_are_refused(verifier, shape, said):
    with pytest.raises(ValueError, match=said):
        verifier.score(["a"], torch.zeros(shape))


def test_an_empty_batch_is_refused(verifier):
    with pytest.raises(ValueError, match="0 prompts do not fit 0 features"):
        verifier.score([], torch.zeros(0, 9, 128))


def test_nanos_verifiers_are_of_the_same_classes(verifier):
    for name in ("vhs", "mllm-ae", "mllm-clip"):
        nano = verifiers.create(name)
        assert type(nano) is type(verifier)
        assert type(nano.model) is type(verifier.model)
        assert nano.info().source == "bundled"
