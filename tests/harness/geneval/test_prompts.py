from __future__ import annotations

import hashlib
import json
from collections import Counter

from vhsbench.generators.nano.world import SHAPES
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval import prompts


def test_the_official_prompts_byte_for_byte():
    text = prompts.to_json_lines(prompts.official())
    digest = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
    assert hashlib.sha256(text.encode()).hexdigest() == digest


def test_official_counts_by_task():
    counts = Counter(p["tag"] for p in prompts.official())
    assert [counts[t] for t in TAGS] == [80, 99, 80, 94, 100, 100]


def test_the_number_of_nano_prompts():
    counts = Counter(p["tag"] for p in prompts.every(SHAPES))
    assert [counts[t] for t in TAGS] == [8, 56, 24, 80, 224, 5040]


def _picture(prompt):
    clauses = prompt["include"]
    return json.dumps(clauses if prompt["tag"] == "position" else sorted(clauses, key=str))


def test_splits_are_disjoint_also_by_what_they_show():
    parts = prompts.split(SHAPES, 64, 0)
    pictures = [{_picture(p) for p in part} for part in parts]
    assert not pictures[0] & pictures[1]
    assert not pictures[0] & pictures[2]
    assert not pictures[1] & pictures[2]
    for part in parts:
        assert {p["tag"] for p in part} == set(TAGS)


def test_splitting_is_deterministic_and_depends_on_the_seed():
    assert prompts.split(SHAPES, 64, 0) == prompts.split(SHAPES, 64, 0)
    assert prompts.split(SHAPES, 64, 0) != prompts.split(SHAPES, 64, 1)


def test_plural_and_articles():
    assert prompts.counting("cross", 3)["prompt"] == "a photo of three crosses"
    assert prompts.color("star", "orange")["prompt"] == "a photo of an orange star"


def test_training_prompts_repeat_and_leave_the_official_ones_out():
    found = prompts.training(prompts.coco_classes(), 44, n=50, variants=20)
    texts = Counter(p["prompt"] for p in found)
    assert set(texts.values()) == {20}
    assert {p["variant"] for p in found} == set(range(20))
    official = {_picture(p) for p in prompts.official()}
    assert not official & {_picture(p) for p in found}
    assert {p["tag"] for p in found} == set(TAGS) - {"single_object"}
    assert prompts.training(prompts.coco_classes(), prompts.OFFICIAL_SEED) == []


def test_new_seeds_and_classes_keep_the_format():
    other = prompts.sample(("person", "cat", "dog"), seed=7, n=30)
    assert other == prompts.sample(("person", "cat", "dog"), seed=7, n=30)
    coloured = [c for p in other for c in p["include"] if "color" in c]
    assert coloured
    assert all(c["class"] != "person" for c in coloured)
    assert len({json.dumps(p) for p in other}) == len(other)
    assert next(list(p) for p in other if p["tag"] == "counting") == ["tag", "include", "exclude", "prompt"]


def test_official_prompts_and_new_ones_from_the_command_line(invoke, tmp_path):
    classes = tmp_path / "classes.txt"
    classes.write_text("cat\ndog\nfox\n")
    lines = invoke("prompts", "--classes", classes, "-n", 5, "--seed", 1)[0].stdout.splitlines()
    assert {c["class"] for p in map(json.loads, lines) for c in p["include"]} == {"cat", "dog", "fox"}
    assert len(invoke("prompts")[0].stdout.splitlines()) == 553
    training = invoke("prompts", "-n", 3, "--variants", 2)[0].stdout.splitlines()
    assert [json.loads(line)["variant"] for line in training[:4]] == [0, 1, 0, 1]
    classes.write_text("cat\ncat\n")
    assert "needs at least two distinct class names" in invoke("prompts", "--classes", classes)[1]
