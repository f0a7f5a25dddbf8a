"""Every setting is known to decide rows, to count by its content, or to be free to change."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import BaseModel

from vhsbench.harness.config.run import RunConfig, parse
from vhsbench.harness.sweep.config_changes import BY_CONTENT, FREE, SAME, difference


def models_in(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_in(part)]


def settings(model, path=""):
    """The dotted path of every field of a configuration that holds no other model."""
    for name, field in model.model_fields.items():
        inner = models_in(field.annotation)
        yield from (s for m in inner for s in settings(m, f"{path}{name}."))
        if not inner:
            yield path + name


def test_every_setting_is_classified_once():
    """A new one fails here until it is said whether rows depend on it: add it to one of the three."""
    known = [*SAME, *BY_CONTENT, *FREE]
    assert sorted(known) == sorted(settings(RunConfig))
    assert len(known) == len(set(known))


def dumped(text=""):
    return parse(f"generators: [{{name: nano}}]\n{text}", "x.yaml").model_dump(mode="json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pool: 3", "pool"),
        ("seeds: [1]", "seeds.0"),
        ("seeds: [0, 1]", "seeds"),
        ("batch_size: 3", "batch_size"),
        ("verifiers: [{name: vhs}]", "verifiers"),
        ("timing: {repeats: 20}", "timing.repeats"),
        ("timing: {variants: [torch-compile]}", "timing.variants"),
    ],
)
def test_what_decides_rows_is_named(text, said):
    assert difference(dumped(), dumped(text)) == said


@pytest.mark.parametrize(
    "text",
    ["name: other", "bootstrap: 3", "tolerance: 0.5", "budgets_ms: [3]", "budgets: [3TFLOP]", "gallery_prompts: 0", "overlap: true",
     "timing: {preset: smoke, repeats: 15, warm_up: 3}", "prompts: {limit: 3}", "prompts: {split: train}",
     "detector: {name: mask2former, options: {pipeline: mmdet3}}", "device: cuda", "threads: 3"],
)  # fmt: skip
def test_what_is_free_or_counts_by_content_is_not(text):
    assert difference(dumped(), dumped(text)) == ""


def test_options_that_say_where_something_is_count_by_content():
    def one(**options):
        return dumped() | {"generators": [dumped()["generators"][0] | {"options": options}]}

    assert difference(one(weights="a"), one(weights="b", revision="main")) == ""
    assert difference(one(weights="a", steps=1), one(weights="a", steps=2)) == "generators.0.options.steps"


def test_another_label_is_another_verifier():
    a, b = (dumped(f"verifiers: [{{name: vhs, label: {label}}}]") for label in "ab")
    assert difference(a, b) == "verifiers.0.label"


def test_a_setting_that_an_earlier_version_lacked_was_as_it_is_by_default():
    old = dumped()
    del old["overlap"], old["batch_size"]
    assert difference(old, dumped()) == ""
    assert difference(old, dumped("batch_size: 4")) == "batch_size"
    assert difference(old | {"gone": 1}, dumped()) in ("gone", "batch_size")
