"""What a verifier of another package must say, and what it need not."""

from __future__ import annotations

import pytest
import torch

from vhsbench import verifiers
from vhsbench.harness.commands.listing import listing
from vhsbench.harness.common.registry import Registry, RegistryError
from vhsbench.verifiers.protocol import Scores, Verifier, VerifierDefaults, VerifierInfo


class Small:
    """Ten lines: a name, what it needs, and scores."""

    name, needs = "small", "latents"

    def score(self, prompts, features):
        half = torch.full((len(prompts),), 0.5)
        return Scores(half, half, half)


class Derived(VerifierDefaults):
    name, needs, block = "derived", "hidden", (3, 5)

    def __init__(self):
        self.device = torch.device("meta")

    score = Small.score


class Silent:
    name, needs = "silent", "latents"


class Elsewhere(Small):
    needs = "pixels"


class Blockless(Small):
    needs = "hidden"


class Blocked(Small):
    block = 3


@pytest.fixture
def plugins(monkeypatch):
    targets = {c.__name__.lower(): f"{__name__}:{c.__name__}"
               for c in (Small, Derived, Silent, Elsewhere, Blockless, Blocked)}  # fmt: skip
    monkeypatch.setattr(
        verifiers, "REGISTRY", Registry("verifier", "group", targets, Verifier, VerifierDefaults)
    )


def test_what_it_does_not_say_has_defaults(plugins):
    small = verifiers.create("small")
    assert isinstance(small, Verifier)
    assert (small.block, small.checkpoint_sha256, small.device) == (None, "", torch.device("cpu"))
    assert (small.modules(), small.parts(["x"], None), small.question_tokens("x")) == ({}, {}, None)
    assert small.info() == VerifierInfo("small", "latents", None)
    assert small.check_host(None) is None
    assert small.value(torch.zeros(1)) is None
    derived = verifiers.create("derived")
    assert (derived.block, derived.device) == ((3, 5), torch.device("meta"))


def test_unknown_is_empty_in_the_list(plugins):
    small = next(entry for entry in listing("verifiers")["verifiers"] if entry["name"] == "small")
    assert (small["needs"], small["parameters"], small["tokens"]) == ("latents", None, None)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("silent", "verifier 'silent' lacks 'score'; vhsbench.verifiers.protocol says what a verifier has."),
        ("elsewhere", "verifier 'elsewhere' needs 'pixels', not 'hidden' or 'latents' or 'images'."),
        ("blockless", "verifier 'blockless' needs 'hidden' and has block None; one of hidden states has a block, "
                      "another has None."),
        ("blocked", "verifier 'blocked' needs 'latents' and has block 3; one of hidden states has a block, "
                    "another has None."),
    ],
)  # fmt: skip
def test_what_it_must_say_is_asked_for_when_it_is_created(plugins, name, said):
    with pytest.raises(RegistryError) as error:
        verifiers.create(name)
    assert str(error.value) == said
    listed = {entry["name"]: entry.get("error") for entry in listing("verifiers")["verifiers"]}
    assert listed[name] == said


@pytest.mark.parametrize("kind", verifiers.KINDS)
def test_the_parts_are_those_of_the_score(nano, kind):
    verifier = verifiers.create(kind)
    cond, noise = nano.encode(["a photo of a star"]), nano.noise([1])
    latents = nano.denoise(cond, noise)
    read = {
        "vhs": lambda: nano.head(cond, noise, verifier.block).features,
        "mllm-ae": lambda: latents,
        "mllm-clip": lambda: nano.decode(latents),
    }[kind]()
    parts = verifier.parts(["a photo of a star"], read)
    assert list(parts) == (["clip"] if kind == "mllm-clip" else []) + ["connector", "llm"]
    p_yes = parts["llm"]().softmax(-1)[:, verifier.question.yes]
    torch.testing.assert_close(p_yes, verifier.score(["a photo of a star"], read).p_yes)
    modules = verifier.modules()
    assert sum(p.numel() for m in modules.values() for p in m.parameters()) == verifier.info().parameters
    assert verifier.question_tokens("a photo of a star") == verifier.question.tokens("a photo of a star")


def test_a_sure_no_has_the_value_0_and_a_sure_yes_1():
    score = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    assert verifiers.create("mllm-ae").value(score).tolist() == [0.0, 0.5, 0.75, 1.0]
