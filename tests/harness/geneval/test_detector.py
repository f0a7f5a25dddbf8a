"""Judging by a detector: one colour request for a whole batch, and prompts that it cannot know."""

from __future__ import annotations

import pytest
from PIL import Image

from vhsbench.generators.protocol import GeneratorError
from vhsbench.harness.common.registry import RegistryError
from vhsbench.harness.geneval import detector as detectors
from vhsbench.harness.geneval.detector import DetectorError, UnknownClass, check_classes, judge
from vhsbench.harness.geneval.prompts import color, color_attr, single
from vhsbench.harness.geneval.rules import Detection


class Scripted:
    """Finds what it is told to, and remembers what colours it was asked for."""

    name = "scripted"
    classes = ("cat", "dog")

    def __init__(self, found, colors):
        self.found, self.colors, self.asked = found, colors, []

    def detect(self, images):
        return self.found

    def name_colors(self, requests):
        self.asked.append([(r.image, r.name, len(r.detections)) for r in requests])
        return [[self.colors[r.name]] * len(r.detections) for r in requests]

    def info(self):
        return {"name": self.name}


def at(x, score=0.8):
    return Detection((x, 0, x + 10, 10), score)


IMAGES = [Image.new("RGB", (8, 8), shade) for shade in ("red", "green", "blue")]


def test_all_colours_of_a_batch_are_asked_at_once_and_answers_reach_their_prompt():
    prompts = [color("cat", "red"), single("dog"), color_attr("dog", "blue", "cat", "red")]
    found = [{"cat": [at(0), at(20)]}, {"dog": [at(0)]}, {"cat": [at(0)], "dog": [at(20)]}]
    detector = Scripted(found, {"cat": "red", "dog": "green"})
    verdicts = judge(detector, IMAGES, prompts)
    assert detector.asked == [[(IMAGES[0], "cat", 1), (IMAGES[2], "dog", 1), (IMAGES[2], "cat", 1)]]
    assert [v.correct for v in verdicts] == [True, True, False]
    assert verdicts[2].reason == "expected blue dog>=1, found 0 blue; and 1 green"
    assert verdicts[1].objects == {"dog": [at(0)]}


def test_no_colour_is_asked_where_none_is_wanted_or_objects_lack():
    detector = Scripted([{}, {"dog": [at(0)]}], {})
    verdicts = judge(detector, IMAGES[:2], [color("cat", "red"), single("dog")])
    assert detector.asked == []
    assert verdicts[0].reason == "expected cat>=1, found 0"


def test_a_judgement_keeps_what_was_selected():
    detector = Scripted([{"cat": [at(0, 0.2), at(20, 0.8)], "dog": [at(0, 0.1)]}], {})
    assert judge(detector, IMAGES[:1], [single("cat")])[0].objects == {"cat": [at(20)]}


def test_a_class_that_the_detector_does_not_know_is_one_sentence():
    with pytest.raises(
        UnknownClass, match=r"here: class 'cats' is unknown to the detector scripted; did you mean 'cat'"
    ):
        check_classes(Scripted([], {}), single("cats"), "here")


def test_registered_by_name_and_options_checked():
    assert detectors.REGISTRY.names() == ["mask2former", "mmdet", "shapes"]
    assert detectors.create("shapes", "cpu").info() == {"name": "shapes"}
    for device, said in (
        ("foo", "unknown device 'foo'; known: cpu, cuda"),
        ("cuda:99", "there is no device 'cuda:99' here: torch finds"),
    ):
        with pytest.raises(GeneratorError, match=said):
            detectors.create("mask2former", device)
    with pytest.raises(RegistryError, match="no option 'checkpoint'"):
        detectors.create("shapes", checkpoint="x")
    with pytest.raises(RegistryError, match="'shapes' has no option 'device'"):
        detectors.create("shapes", "cpu", device="cpu")
    with pytest.raises(RegistryError, match="did you mean 'mask2former'"):
        detectors.create("mask2fromer")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (at(3, float("nan")), r"detector 'scripted' found a 'cat' of score nan in the box \(3, 0, 13, 10\)"),
        (at(float("inf")), r"detector 'scripted' found a 'cat' of score 0\.8 in the box \(inf, 0, inf, 10\)"),
    ],
)
def test_a_detection_that_is_no_numbers_is_refused(found, said):
    detector = Scripted([{"cat": [at(0), found]}], {})
    with pytest.raises(DetectorError, match=f"{said} of an image of 'a photo of a cat'"):
        judge(detector, IMAGES[:1], [single("cat")])
