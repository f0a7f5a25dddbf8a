"""What a judge is: registered, completed by defaults, made of a verifier, or GenEval's evaluation."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch
from PIL import Image

from vhsbench import verifiers
from vhsbench.generators.nano.world import Item, render
from vhsbench.harness import judges
from vhsbench.harness.common import registry
from vhsbench.harness.common.registry import RegistryError
from vhsbench.harness.geneval import detector
from vhsbench.harness.geneval.detector import UnknownClass
from vhsbench.harness.geneval.shapes import ShapeDetector
from vhsbench.harness.judges import JudgeError, Verdict
from vhsbench.harness.judges.of_verifier import VerifierJudge
from vhsbench.verifiers.protocol import Scores, VerifierDefaults
from vhsbench.verifiers.verifier import MllmVerifier

PROMPT = {"prompt": "a photo of a red circle", "tag": "colors",
          "include": [{"class": "circle", "count": 1, "color": "red"}]}  # fmt: skip


def picture(color):
    return Image.fromarray((render((Item("circle", color, 32, 32, 8),)) * 255).round().astype(np.uint8))


class Redness(VerifierDefaults):
    name, needs = "redness", "images"

    def __init__(self, threshold=None, needs="images"):
        self.threshold, self.needs = threshold, needs

    def value(self, score):
        return score / 255

    def score(self, prompts, features):
        return Scores(score=torch.tensor([float(np.asarray(image)[..., 0].mean()) for image in features]))


class Strict:
    """A judge of another package, which says only what it must."""

    name = "strict"

    def judge(self, images, prompts):
        return [Verdict(0.25) for _ in images]


class Level(VerifierDefaults):
    """Scores as they are given, in place of pictures."""

    name, needs = "level", "images"

    def __init__(self, threshold):
        self.threshold = threshold

    def score(self, prompts, features):
        return Scores(score=torch.tensor(features))

    def value(self, score):
        return score


def values(scores, threshold):
    return VerifierJudge(Level(threshold)).judge(scores, [PROMPT] * len(scores))


def test_geneval_says_what_the_evaluation_says():
    images = [picture("red"), picture("blue")]
    judge = judges.create("geneval", detector="shapes")
    verdicts = judge.judge(images, [PROMPT] * 2)
    assert [(v.value, v.correct, v.reason) for v in verdicts] == [
        (1.0, True, ""),
        (0.0, False, "expected red circle>=1, found 0 red; and 1 blue"),
    ]
    assert verdicts == detector.judge(ShapeDetector(), images, [PROMPT] * 2)
    assert judge.info() == {"name": "shapes"}
    assert judges.REGISTRY.identity("geneval", detector="shapes") == {"name": "geneval"} | detector.identity(
        "shapes"
    )


def test_a_prompt_that_the_detector_does_not_know_is_refused():
    dog = {"prompt": "a dog", "tag": "single_object", "include": [{"class": "dog", "count": 1}]}
    with pytest.raises(UnknownClass, match="line 3: class 'dog' is unknown to the detector shapes"):
        judges.create("geneval", detector="shapes").check_prompt(dog, "line 3")


def test_a_verifiers_values_are_a_judges_and_its_threshold_says_what_is_right():
    verdicts = values([0.25, 0.5, 1.0], threshold=0.5)
    assert verdicts == [
        Verdict(0.25, False, "value 0.25, less than 0.5"), Verdict(0.5, True), Verdict(1.0, True),
    ]  # fmt: skip
    assert values([0.25, 1.0], threshold=None) == [Verdict(0.25), Verdict(1.0)]


def test_a_verifier_without_values_cannot_be_a_judge():
    verifier = Level(None)
    verifier.value = lambda score: None
    with pytest.raises(
        JudgeError, match=r"verifier 'level' cannot be a judge: it has no value\(score\) from 0 to 1"
    ):
        VerifierJudge(verifier).judge([0.5], [PROMPT])


def test_a_verifier_that_reads_images_is_a_judge_by_its_name(monkeypatch):
    monkeypatch.setitem(verifiers.REGISTRY._load(), "redness", f"{__name__}:Redness")
    monkeypatch.setattr(registry.importlib, "import_module", lambda _: __import__("sys").modules[__name__])
    assert "redness" in judges.REGISTRY
    assert "redness" in judges.REGISTRY.names()
    assert "redness" not in judges.REGISTRY.own()
    judge = judges.create("redness", threshold=0.5)
    red, blue = judge.judge([Image.new("RGB", (2, 2), c) for c in ("#f00", "#00f")], [PROMPT] * 2)
    assert (red.value, red.correct, blue.value, blue.correct) == (1.0, True, 0.0, False)
    with pytest.raises(
        RegistryError, match="judge 'redness' has no option 'treshold'; did you mean 'threshold'"
    ):
        judges.create("redness", treshold=1)
    with pytest.raises(JudgeError, match="'redness' cannot be a judge: it reads latents"):
        judges.create("redness", needs="latents")


def test_an_llm_is_right_where_it_says_yes():
    assert MllmVerifier.threshold == 0.5


def test_an_entry_point_registers_a_judge_and_defaults_complete_it(monkeypatch):
    point = EntryPoint("strict", f"{__name__}:Strict", "vhsbench.judges")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "vhsbench.judges" else [])
    monkeypatch.setattr(registry.importlib, "import_module", lambda _: __import__("sys").modules[__name__])
    known = type(judges.REGISTRY)("judge", "vhsbench.judges", {}, judges.Judge, judges.JudgeDefaults)
    judge = known.create("strict")
    assert judge.info() == {"name": "strict"}
    judge.check_prompt(PROMPT, "line 1")
    assert judge.judge([None], [PROMPT]) == [Verdict(0.25, None, "")]


def test_an_unknown_judge_is_refused_with_the_nearest_name():
    with pytest.raises(RegistryError, match="unknown judge 'genval'; did you mean 'geneval'"):
        judges.create("genval")
