"""docs/examples/biased_verifier: a verifier that is wrong on purpose, whose own score rises while a judge's value falls."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.stats.expected import expected_accuracy
from vhsbench.verifiers.protocol import Scores, VerifierDefaults

FOLDER = Path(__file__).parents[3] / "docs/examples/biased_verifier"


@pytest.fixture(scope="module")
def example():
    about = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
    module, _, factory = about["project"]["entry-points"]["vhsbench.verifiers"]["biased"].partition(":")
    assert about["tool"]["setuptools"]["py-modules"] == [module]
    spec = importlib.util.spec_from_file_location(module, FOLDER / f"{module}.py")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    assert callable(getattr(found, factory))
    return found


class Finds(VerifierDefaults):
    """Scores a picture by the share of it that is not grey."""

    name, needs = "finds", "images"

    def score(self, prompts, features):
        return Scores(
            score=torch.tensor([(np.asarray(image.convert("L")) != 128).mean() for image in features])
        )


def picture(size):
    """A white square on grey, of so many pixels a side."""
    image = Image.new("RGB", (16, 16), (128, 128, 128))
    image.paste((255, 255, 255), (0, 0, size, size))
    return image


def test_plainness_is_that_of_brightness(example):
    halves = Image.new("L", (2, 1))
    halves.putpixel((0, 0), 255)
    assert example.plainness(halves) == pytest.approx(0)
    assert example.plainness(picture(0)) == 1
    assert example.plainness(picture(4)) > example.plainness(picture(8))


def test_its_own_score_rises_with_n_while_a_judges_value_falls(example):
    sizes = [0, 2, 4, 6]
    images, right = [picture(size) for size in sizes], np.array([0.0, 0.0, 1.0, 1.0])
    for weight, rises in ((0.0, True), (20.0, False)):
        scores = example.Biased(Finds(), weight).score([""] * 4, images).score.numpy()
        own, judge = expected_accuracy(scores, scores), expected_accuracy(scores, right)
        assert np.all(np.diff(own) > 0)
        assert np.all(np.diff(judge) >= 0 if rises else np.diff(judge) <= 0)
        assert judge[-1] == (1 if rises else 0)


def test_a_base_that_reads_no_images_is_refused(example):
    base = Finds()
    base.needs = "latents"
    with pytest.raises(VhsbenchError, match="a base that reads images; 'finds' reads latents"):
        example.Biased(base, 1.0)


def test_another_weight_is_another_verifier(example):
    assert example.create.identity(weight=1.0) != example.create.identity(weight=2.0)
    assert example.create.identity()["base"]["name"] == "mllm-clip"


def test_its_run_has_the_options_that_it_takes(example):
    config = yaml.safe_load((FOLDER / "run.yaml").read_text(encoding="utf-8"))
    mine = [entry for entry in config["verifiers"] if entry["name"] == "biased"]
    assert len(mine) == 2
    assert all(set(entry["options"]) == {"base", "weight"} for entry in mine)
    assert len(config["judges"]) == 2
