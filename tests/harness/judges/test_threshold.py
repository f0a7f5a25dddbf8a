"""A judge made of a verifier takes a threshold, from which value on an image is right."""

from __future__ import annotations

import pytest

from vhsbench.harness import judges, suites
from vhsbench.harness.config.run import parse
from vhsbench.harness.judges import JudgeError
from vhsbench.harness.judges.of_verifier import VerifierJudge


class Likes:
    name, needs, threshold = "likes", "images", None


def test_what_reaches_the_threshold_is_right():
    strict = VerifierJudge(Likes(), 0.5)
    assert [strict._verdict(v).correct for v in (0.49, 0.5, 1.0)] == [False, True, True]
    assert strict._verdict(0.49).reason == "value 0.49, less than 0.5"
    assert VerifierJudge(Likes())._verdict(0.5).correct is None
    for wrong in (1.5, True, "half"):
        with pytest.raises(JudgeError, match="judge 'likes' has a threshold from 0 to 1, not"):
            VerifierJudge(Likes(), wrong)


def test_a_threshold_is_part_of_what_decides_verdicts():
    judges.REGISTRY.check_options("soft-tifa", ["threshold", "combine"])
    plain, strict = (
        judges.REGISTRY.identity("clip-score", generator="nano", **o) for o in ({}, {"threshold": 0.3})
    )
    assert strict == plain | {"threshold": 0.3}


def test_every_suites_first_judge_says_what_is_right(tmp_path):
    """Else its run is refused once pictures are made."""
    for name in suites.REGISTRY:
        path = f", path: {tmp_path}" if suites.create(name).copy else ""
        first, *_ = parse(f"generators: [nano]\nsuite: {{name: {name}{path}}}\n", "x.yaml").judged_by
        assert first.name == "geneval" or 0 < first.options["threshold"] <= 1
        judges.REGISTRY.check_options(first.name, first.options)
