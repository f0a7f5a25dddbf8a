"""A judge is tested on known pictures before a run: one that is set up wrongly is found, and says so in a sentence."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from vhsbench.generators.nano.world import SHAPES
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.config.models import load_judges
from vhsbench.harness.config.run import parse
from vhsbench.harness.geneval import detector
from vhsbench.harness.geneval.judge import GenevalJudge
from vhsbench.harness.geneval.metadata import check
from vhsbench.harness.geneval.shapes import ShapeDetector
from vhsbench.harness.judges import JudgeDefaults, JudgeError, Verdict
from vhsbench.harness.judges.known import drawn_pairs, nano_pairs
from vhsbench.harness.judges.of_verifier import VerifierJudge
from vhsbench.harness.judges.self_test import NEEDED, check_reference, self_test
from vhsbench.verifiers.protocol import Scores, VerifierDefaults


class WrongClasses(ShapeDetector):
    """Names each shape as the next in another list."""

    def detect(self, images):
        moved = dict(zip(SHAPES, (*SHAPES[1:], SHAPES[0]), strict=True))
        return [{moved[name]: found for name, found in seen.items()} for seen in super().detect(images)]


class WrongColors(ShapeDetector):
    """Sees blue as red: channels in the order of OpenCV."""

    def detect(self, images):
        return super().detect([Image.fromarray(np.asarray(image)[..., ::-1].copy()) for image in images])


class Half(ShapeDetector):
    """Sees other colours than in full precision."""

    def reference(self):
        return WrongColors()


class Untrained(ShapeDetector):
    """Finds anything anywhere."""

    def detect(self, images):
        random = np.random.default_rng(0)
        seen = super().detect(images)
        found = [boxes for each in seen for boxes in each.values()]
        return [{SHAPES[random.integers(len(SHAPES))]: found[random.integers(len(found))]} for _ in images]


class Guess(VerifierDefaults):
    name, needs = "guess", "images"

    def score(self, prompts, features):
        return Scores(score=torch.rand(len(prompts), generator=torch.Generator().manual_seed(len(prompts))))

    def value(self, score):
        return score


class Seer(JudgeDefaults):
    """Knows the right pictures by heart; prefers the wrong ones of the prompts in `wrong`."""

    name = "seer"

    def __init__(self, pairs, tells=("single_object",), wrong=()):
        self.right = {id(pair.right) for pair in pairs}
        self.tells, self.wrong = tells, wrong

    def judge(self, images, prompts):
        return [
            Verdict(float((id(image) in self.right) != (prompt["prompt"] in self.wrong)))
            for image, prompt in zip(images, prompts, strict=True)
        ]


def test_a_faster_judge_must_give_its_references_verdict_on_every_known_picture():
    pairs = nano_pairs()
    fast, exact = (Seer(pairs, wrong=wrong) for wrong in ((), (pairs[3].prompt["prompt"],)))
    check_reference(fast, pairs)  # is its own
    fast.reference = lambda: Seer(pairs)
    check_reference(fast, pairs)
    fast.reference = lambda: exact
    number = 2 * sum(pair.prompt["prompt"] == pairs[3].prompt["prompt"] for pair in pairs)
    with pytest.raises(JudgeError) as error:
        check_reference(fast, pairs)
    assert str(error.value) == (
        f"judge 'seer' gives {number} of {2 * len(pairs)} known pictures another verdict than in full precision "
        f"(first '{pairs[3].prompt['prompt']}'); leave its 'dtype' out."
    )


def test_a_run_checks_a_judge_in_half_precision(monkeypatch):
    monkeypatch.setitem(detector.REGISTRY._load(), "half", "half:Half")
    monkeypatch.setitem(sys.modules, "half", sys.modules[__name__])
    config = parse("{generators: [{name: nano}], detector: half}", "a test")
    with pytest.raises(JudgeError, match="known pictures another verdict than in full precision"):
        load_judges(config, [])


def test_nanos_judge_tells_every_task_apart():
    found = self_test(GenevalJudge(ShapeDetector()), nano_pairs())
    assert list(found) == list(TAGS)
    assert min(found.values()) > 0.9


@pytest.mark.parametrize(
    ("wrong", "task"),
    [(WrongClasses, "single_object"), (WrongColors, "colors"), (Untrained, "single_object")],
)
def test_a_judge_that_is_set_up_wrongly_is_found(wrong, task):
    with pytest.raises(JudgeError) as error:
        self_test(GenevalJudge(wrong()), nano_pairs())
    said = str(error.value)
    assert (
        f"judge 'geneval' does not tell known pictures apart: of {16 if task == 'single_object' else 4} pairs"
        in said
    )
    assert f"of the task {task}, it prefers the right picture in" in said
    assert "its classes, checkpoint or colour model may be wrong" in said


def test_a_verifier_of_random_weights_is_found():
    for pairs in (nano_pairs(), drawn_pairs()):
        with pytest.raises(
            JudgeError, match=r"judge 'guess' does not tell known pictures apart: of 1[26] pairs"
        ):
            self_test(VerifierJudge(Guess()), pairs)


def test_what_is_told_the_wrong_way_round_counts_against_it():
    pairs = [pair for pair in drawn_pairs() if pair.prompt["tag"] == "single_object"]
    prompts = list(dict.fromkeys(pair.prompt["prompt"] for pair in pairs))
    assert self_test(Seer(pairs), pairs) == {"single_object": 1.0}
    assert self_test(Seer(pairs, wrong=prompts[:1]), pairs)["single_object"] == pytest.approx(8 / 12)
    assert NEEDED == 0.5
    with pytest.raises(
        JudgeError, match=rf"the right picture in 8 and the wrong one in 4 .first '{prompts[0]}'"
    ):
        self_test(Seer(pairs, wrong=prompts[:2]), pairs)
    with pytest.raises(JudgeError, match="prefers the right picture in 0 and the wrong one in 0"):
        self_test(Seer([]), pairs)  # the same value of every picture


def test_a_judge_is_asked_only_what_it_tells_and_can_judge():
    seer = Seer(drawn_pairs(), tells=())
    assert self_test(seer, drawn_pairs()) == {}
    assert self_test(GenevalJudge(ShapeDetector()), drawn_pairs()) == {}  # it knows no stop sign


def test_known_pictures_are_of_their_prompts_and_of_one_size():
    for pairs, side, tasks in (
        (nano_pairs(), 64, set(TAGS)),
        (drawn_pairs(), 512, {"single_object", "colors"}),
    ):
        assert {pair.prompt["tag"] for pair in pairs} == tasks
        for pair in pairs:
            check({k: v for k, v in pair.prompt.items() if k != "questions"}, "a known prompt")
            assert pair.right.size == pair.wrong.size == (side, side)
            assert pair.right.tobytes() != pair.wrong.tobytes()
    centers = {
        pair.prompt["include"][0]["color"]: np.asarray(pair.right, float)[150, 260]
        for pair in drawn_pairs()
        if pair.prompt["include"][0].get("color") and pair.prompt["include"][0]["class"] == "umbrella"
    }
    assert list(centers) == ["red", "yellow", "blue", "green"]
    assert [int(rgb.argmax()) for rgb in centers.values()] == [0, 0, 2, 1]


def test_a_run_is_refused_before_it_makes_anything(monkeypatch):
    monkeypatch.setitem(detector.REGISTRY._load(), "wrong", "wrong_classes:WrongClasses")
    monkeypatch.setitem(sys.modules, "wrong_classes", sys.modules[__name__])
    text = "generators: [nano]\nprompts: {limit: 2}\ndetector: wrong\n"
    config = parse(text, "x.yaml")
    prompts = [dict(pair.prompt) for pair in nano_pairs()[:1]]
    with pytest.raises(JudgeError, match="does not tell known pictures apart"):
        load_judges(config, prompts)
    untested = parse(text + "judges: [{name: geneval, self_test: false}]\n", "x.yaml")
    assert load_judges(untested, prompts)[0].info() == {"name": "shapes"}


def test_random_weights_are_not_asked(monkeypatch):
    monkeypatch.setattr(WrongClasses, "info", lambda self: {"name": "shapes", "checkpoint_sha256": "random"})
    monkeypatch.setitem(detector.REGISTRY._load(), "wrong", "wrong_classes:WrongClasses")
    monkeypatch.setitem(sys.modules, "wrong_classes", sys.modules[__name__])
    config = parse("generators: [nano]\ndetector: wrong\n", "x.yaml")
    assert load_judges(config, [dict(nano_pairs()[0].prompt)])
