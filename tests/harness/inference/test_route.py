"""A route is its stages by name: what runs, in which order, for whom; and the image is the whole forward's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from vhsbench import verifiers
from vhsbench.generators.protocol import Conditioning, HiddenStates
from vhsbench.harness.cost.stages import each_stage, stages
from vhsbench.harness.inference.best_of_n import best_of_n
from vhsbench.harness.inference.route import ROUTES, Route, route_of
from vhsbench.verifiers.protocol import Scores, VerifierDefaults

PROMPT = "a photo of a blue cross left of a heart"
KINDS = ("hidden", "latents", "images")
VERIFIERS = {"hidden": "vhs", "latents": "mllm-ae", "images": "mllm-clip"}


class Noted:
    """A generator that only notes its stages, with the number of candidates of each call."""

    name, steps, blocks = "noted", 1, 8

    def __init__(self):
        self.calls = []

    def encode(self, prompts):
        self.calls.append(("encode", len(prompts)))
        return Conditioning(tuple(prompts), {})

    def noise(self, seeds):
        self.calls.append(("noise", len(seeds)))
        return torch.tensor(seeds).float()[:, None]

    def head(self, cond, noise, block):
        self.calls.append((f"head {block}", len(noise)))
        return HiddenStates(block, (noise + 1,), noise, cond)

    def tail(self, hidden):
        self.calls.append(("tail", len(hidden.noise)))
        return hidden.streams[0] * 2

    def denoise(self, cond, noise):
        assert len(cond) == len(noise)
        self.calls.append(("denoise", len(noise)))
        return (noise + 1) * 2

    def decode(self, latents):
        self.calls.append(("decode", len(latents)))
        return [Image.new("L", (1, 1), int(v)) for v in latents[:, 0]]


class Largest(VerifierDefaults):
    """Scores what it reads by its value."""

    name = "largest"

    def __init__(self, needs, calls):
        self.needs, self.block, self.calls = needs, 3 if needs == "hidden" else None, calls

    def score(self, prompts, features):
        self.calls.append(("score", len(prompts)))
        if self.needs == "images":
            features = torch.tensor([[float(i.getpixel((0, 0)))] for i in features])
        values = features[:, 0].float()
        return Scores(values, values, values)


@pytest.mark.parametrize(
    ("needs", "per_candidate", "fixed"),
    [
        ("hidden", ("noise", "head", "score"), ("encode", "tail", "decode")),
        ("latents", ("noise", "denoise", "score"), ("encode", "decode")),
        ("images", ("noise", "denoise", "decode", "score"), ("encode",)),
        (None, ("noise", "denoise", "decode"), ("encode",)),
    ],
)
def test_what_every_candidate_pays_and_what_is_paid_once(needs, per_candidate, fixed):
    assert ROUTES[needs].per_candidate == per_candidate
    assert ROUTES[needs].fixed == fixed


@pytest.mark.parametrize(
    ("needs", "batches", "winner"),
    [
        ("hidden", ["noise", "head 3", "score"], ["tail", "decode"]),
        ("latents", ["noise", "denoise", "score"], ["decode"]),
        ("images", ["noise", "denoise", "decode", "score"], []),
    ],
)
def test_best_of_n_runs_the_stages_in_order_and_the_winner_alone_goes_on(needs, batches, winner):
    generator = Noted()
    best = best_of_n(generator, Largest(needs, generator.calls), PROMPT, [4, 9, 7], batch=2)
    run = [("encode", 1)] + [(s, n) for n in (2, 1) for s in batches] + [(s, 1) for s in winner]
    assert generator.calls == run
    assert (best.index, best.image.getpixel((0, 0))) == (1, 20)


def test_without_a_verifier_it_is_the_first_seed_alone():
    generator = Noted()
    best = best_of_n(generator, None, PROMPT, [4, 9, 7])
    assert generator.calls == [("encode", 1), ("noise", 1), ("denoise", 1), ("decode", 1)]
    assert (best.index, best.image.getpixel((0, 0)), best.scores.tolist()) == (0, 10, [0.0])


def test_a_route_is_composed_of_names_alone():
    """As one that denoises first and reads the picture, and one with nothing after the choice."""
    generator = Noted()
    cond = generator.encode([PROMPT])
    route = Route(("noise", "head", "tail", "score", "decode"), block=2)
    assert (route.per_candidate, route.fixed) == (("noise", "head", "tail", "score"), ("encode", "decode"))
    state = route.start(generator, cond, [3, 5])
    assert route.reads(state).tolist() == [[8.0], [12.0]]
    assert [i.getpixel((0, 0)) for i in route.finish(generator, cond, state, 1)] == [12]
    names = ["encode", "noise", "head 2", "tail", "decode"]
    assert [name for name, _ in generator.calls] == names


@pytest.mark.parametrize("needs", KINDS)
def test_the_image_is_the_whole_forwards_own(nano, needs):
    verifier = verifiers.create(VERIFIERS[needs])
    route, cond = route_of(verifier), nano.encode([PROMPT])
    assert (route.stages, route.block) == (ROUTES[needs].stages, verifier.block)
    whole = nano.decode(nano.denoise(cond, nano.noise([11])))[0]
    state = route.start(nano, cond, [11])
    assert route.finish(nano, cond, state, 0)[0].tobytes() == whole.tobytes()
    several = route.start(nano, cond.select([0, 0, 0]), [5, 7, 11])
    (image,) = route.finish(nano, cond, several, 2)
    assert np.abs(np.asarray(image).astype(int) - np.asarray(whole).astype(int)).max() <= 1
    assert verifier.score([PROMPT] * 3, route.reads(several)).score.shape == (3,)


@pytest.mark.parametrize(
    ("needs", "order"),
    [
        ("hidden", ["encode", "noise", "head", "score", "connector", "llm", "tail", "decode"]),
        ("latents", ["encode", "noise", "denoise", "score", "connector", "llm", "decode"]),
        ("images", ["encode", "noise", "denoise", "decode", "score", "clip", "connector", "llm"]),
        (None, ["encode", "noise", "denoise", "decode"]),
    ],
)
def test_the_stages_to_measure_are_those_that_run(nano, needs, order):
    verifier = verifiers.create(VERIFIERS[needs]) if needs else None
    done = []
    each_stage(nano, verifier, PROMPT, lambda stage, call: (done.append(stage), call())[1])
    assert done == order
    calls = stages(nano, verifier, PROMPT)
    assert list(calls) == order
    route = route_of(verifier)
    parts = {"clip", "connector", "llm"}
    assert {*route.fixed, *route.per_candidate} == set(order) - parts
    for call in calls.values():
        call()  # each can be called by itself, any number of times


def test_nothing_that_no_stage_takes_is_run_ahead_of_measuring():
    """So that a stage that runs out of memory has a row of its own."""
    generator = Noted()
    calls = stages(generator, Largest("hidden", generator.calls), PROMPT)
    assert [name for name, _ in generator.calls] == ["encode", "noise", "head 3", "tail"]
    assert list(calls) == ["encode", "noise", "head", "score", "tail", "decode"]
