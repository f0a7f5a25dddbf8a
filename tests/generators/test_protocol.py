"""What a generator of another package must say, and what it need not."""

from __future__ import annotations

import pytest
import torch

from vhsbench import generators
from vhsbench.generators.protocol import Generator, GeneratorDefaults
from vhsbench.harness.common.registry import Registry, RegistryError


class Stages:
    """Every stage, and no more than a generator must have."""

    name, steps, blocks, device = "stages", 1, 2, torch.device("cpu")
    encode = noise = head = tail = denoise = decode = info = lambda *_: None


class Undecoded(Stages):
    decode = property()  # as if it were not there


@pytest.fixture
def plugins(monkeypatch):
    targets = {c.__name__.lower(): f"{__name__}:{c.__name__}" for c in (Stages, Undecoded)}
    monkeypatch.setattr(
        generators, "REGISTRY", Registry("generator", "group", targets, Generator, GeneratorDefaults)
    )


def test_what_it_does_not_say_has_defaults(plugins):
    made = generators.create("stages")
    assert isinstance(made, Generator)
    assert (made.revision, made.modules()) == ("", {})


def test_a_stage_that_is_missing_is_named_when_it_is_created(plugins):
    with pytest.raises(RegistryError) as error:
        generators.create("undecoded")
    said = "generator 'undecoded' lacks 'decode'; vhsbench.generators.protocol says what a generator has."
    assert str(error.value) == said


def test_the_modules_are_what_costs_are_told_of(nano):
    modules = nano.modules()
    assert {"transformer", "vae", "text_encoder"} <= set(modules)
    assert sum(p.numel() for p in modules["transformer"].parameters()) == nano.info().parameters
