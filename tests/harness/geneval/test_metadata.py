"""Metadata is checked wherever it enters, before anything is made of it; what GenEval judges is accepted."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from vhsbench.generators.nano.world import SHAPES
from vhsbench.harness.cli import app
from vhsbench.harness.config.run import ConfigError, parse
from vhsbench.harness.geneval import colored, evaluate, folders
from vhsbench.harness.geneval import prompts as geneval
from vhsbench.harness.geneval.detector import UnknownClass
from vhsbench.harness.geneval.metadata import LONGEST_PROMPT, MAX_OBJECTS, MetadataError, check
from vhsbench.harness.geneval.nano_prompts import nano_prompts
from vhsbench.harness.geneval.shapes import ShapeDetector
from vhsbench.harness.regress.pool import make_pool
from vhsbench.harness.sweep.run import load_prompts, run
from vhsbench.harness.training.data_config import LabelsConfig
from vhsbench.harness.training.sources import TrainingSourceError, label_prompts

HEART = {"tag": "single_object", "include": [{"class": "heart", "count": 1}], "prompt": "a photo of a heart"}


def heart(*clauses, **changes):
    return {**HEART, "include": [{"class": "heart", "count": 1, **c} for c in clauses or ({},)], **changes}


def without(key):
    return {k: v for k, v in HEART.items() if k != key}


def test_all_that_geneval_and_nano_ask_for_is_accepted_as_it_is():
    known = [
        *geneval.official(),
        *geneval.training(geneval.coco_classes(), 44, 20, variants=2),
        *geneval.every(SHAPES),
        *(p for part in nano_prompts().values() for p in part),
    ]
    assert len(known) > 5000
    for number, metadata in enumerate(known):
        assert check(metadata, f"line {number}") == metadata


# (metadata, what follows "FILE, line 2")
MISTAKES = [
    # counted as always correct before
    (without("include"), ", key 'include': is required."),
    ({**without("include"), "inclde": HEART["include"]}, ", key 'inclde': unknown key; did you mean 'include'?"),
    (heart(include=[]), ", key 'include': a list of 1 to 100 clauses is needed, not []."),
    (heart({"count": 0}), ", key 'include.0.count': a whole number from 1 to 16 is needed, not 0."),
    (heart({"count": -1}), ", key 'include.0.count': a whole number from 1 to 16 is needed, not -1."),
    # could never be correct
    (heart({"count": 17}), ", key 'include.0.count': a whole number from 1 to 16 is needed, not 17."),
    (heart(exclude=[{"class": "heart", "count": 1}]),
     ", key 'exclude.0.count': 1 of 'heart' are too many, but include asks for 1, so no image could be right."),
    # ended after generation, or in a crash
    (heart(include=None), ", key 'include': a list of 1 to 100 clauses is needed, not None."),
    (heart(include={"class": "heart", "count": 1}),
     ", key 'include': a list of 1 to 100 clauses is needed, not {'class': 'heart', 'count': 1}."),
    (heart(include=["heart"]), ", key 'include.0': an object with class, count, color, position is needed, not 'heart'."),
    (heart(include=[{"class": "heart"}]), ", key 'include.0.count': is required."),
    (heart(include=[{"count": 1}]), ", key 'include.0.class': is required."),
    (heart({"class": ""}), ", key 'include.0.class': a text is needed, not ''."),
    (heart({"class": 3}), ", key 'include.0.class': a text is needed, not 3."),
    (heart({"count": "2"}), ", key 'include.0.count': a whole number from 1 to 16 is needed, not '2'."),
    (heart({"count": True}), ", key 'include.0.count': a whole number from 1 to 16 is needed, not True."),
    (heart({"count": 2.0}), ", key 'include.0.count': a whole number from 1 to 16 is needed, not 2.0."),
    (heart({"cuont": 2}), ", key 'include.0.cuont': unknown key; did you mean 'count'?"),
    (heart({"colour": "red"}), ", key 'include.0.colour': unknown key; did you mean 'color'?"),
    (heart({"color": "grey"}), ", key 'include.0.color': unknown colour 'grey'; did you mean 'green'?"),
    (heart({"color": None}), ", key 'include.0.color': a colour is one of red, orange, yellow, green, blue, purple, "
                             "pink, brown, black, white, not None."),
    (heart({}, {"position": ["left off", 0]}), ", key 'include.1.position.0': unknown relation 'left off'; did you mean 'left of'?"),
    (heart({}, {"position": "left of"}), ", key 'include.1.position': [relation, index of an earlier clause] is needed, "
                                         "as [\"left of\", 0], not 'left of'."),
    (heart({}, {"position": ["left of", 1]}), ", key 'include.1.position': points to clause 1, but a position is "
                                              "relative to an earlier clause, counted from 0."),
    (heart({"position": ["left of", 1]}, {}), ", key 'include.0.position': points to clause 1, but a position is "
                                              "relative to an earlier clause, counted from 0."),
    (heart({}, {"position": ["left of", -1]}), ", key 'include.1.position.1': a whole number from 0 to 99 is needed, not -1."),
    (heart({}, {"position": ["left of", False]}), ", key 'include.1.position.1': a whole number from 0 to 99 is needed, not False."),
    (heart(exclude=5), ", key 'exclude': a list of clauses is needed, not 5."),
    (heart(exclude=None), ", key 'exclude': a list of clauses is needed, not None."),
    (heart(exclude=[{"class": "heart", "count": 2, "color": "red"}]), ", key 'exclude.0.color': unknown key; known: class, count."),
    (heart(tag="colours"), ", key 'tag': unknown tag 'colours'; did you mean 'colors'?"),
    (heart(tag=3), ", key 'tag': a tag is one of single_object, two_object, counting, colors, position, color_attr, not 3."),
    (without("tag"), ", key 'tag': is required."),
    (without("prompt"), ", key 'prompt': is required."),
    (heart(prompt=" "), ", key 'prompt': a text is needed, not ' '."),
    (heart(prompt="a" * (LONGEST_PROMPT + 1)), ", key 'prompt': at most 10,000 characters are allowed, not 10,001."),
    (heart(variant="0"), ", key 'variant': a whole number from 0 to 1000000000 is needed, not '0'."),
]  # fmt: skip
NO_OBJECTS = [  # and what the reader of JSON lines says
    (heart(prompt="a \ud800"), ", key 'prompt': 'a \\ud800' has half of a character (a lone surrogate).",
     r": \ud800 is half of a surrogate pair, which is no character."),
    (["a heart"], ": an object with tag, include, exclude, prompt, variant is needed, not ['a heart'].",
     ": not a JSON object."),
    (None, ": an object with tag, include, exclude, prompt, variant is needed, not None.", ": not a JSON object."),
]  # fmt: skip


@pytest.fixture(params=MISTAKES, ids=lambda m: m[1][2:60])
def mistake(request, tmp_path):
    """A file whose second line is wrong, the metadata itself, and what is said of it after the place."""
    metadata, said = request.param
    file = tmp_path / "prompts.jsonl"
    file.write_text(f"{json.dumps(HEART)}\n{json.dumps(metadata)}\n")
    return file, metadata, said


def refused(act) -> str:
    with pytest.raises(MetadataError) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


def config(file: Path):
    return parse(f"generators: [{{name: nano}}]\nprompts: {{source: '{file}'}}\npool: 1\n", "run.yaml")


def test_a_mistake_is_named_by_file_line_and_key_wherever_it_enters(mistake, tmp_path):
    file, metadata, said = mistake
    sentence = f"{file}, line 2{said}"
    assert refused(lambda: load_prompts(config(file))) == sentence
    labels = LabelsConfig(prompts=str(file))
    assert refused(lambda: label_prompts(labels, ShapeDetector(), 0, tmp_path / "work")) == sentence
    alone = tmp_path / "images" / "00000" / "metadata.jsonl"
    alone.parent.mkdir(parents=True)
    alone.write_text(json.dumps(metadata))
    assert refused(lambda: folders.read_folder(tmp_path / "images")) == f"{alone}{said}"


@pytest.mark.parametrize(("value", "said", "read"), NO_OBJECTS)
def test_what_is_no_object_of_texts_is_refused_by_the_check_and_by_the_reader(tmp_path, value, said, read):
    assert refused(lambda: check(value, "x")) == f"x{said}"
    file = tmp_path / "prompts.jsonl"
    file.write_text(f"{json.dumps(HEART)}\n{json.dumps(value)}\n")
    labels = LabelsConfig(prompts=str(file))
    with pytest.raises(ConfigError) as run_error:
        load_prompts(config(file))
    with pytest.raises(TrainingSourceError) as training_error:
        label_prompts(labels, ShapeDetector(), 0, tmp_path / "work")
    assert str(run_error.value) == str(training_error.value) == f"{file}, line 2{read}"


@pytest.mark.parametrize("command", ["dry", "run", "pool"])
def test_nothing_is_generated_for_a_file_with_a_mistake(tmp_path, command, monkeypatch):
    from vhsbench import generators

    monkeypatch.setattr(generators, "create", lambda *_, **__: pytest.fail("a generator was loaded"))
    file, out = tmp_path / "nocount.jsonl", tmp_path / "out"
    file.write_text(json.dumps(heart(include=[{"class": "heart"}])) + "\n")
    acts = {"run": lambda: run(config(file), out), "pool": lambda: make_pool(config(file), out)}
    if command == "dry":
        yaml = tmp_path / "run.yaml"
        yaml.write_text(f"generators: [{{name: nano}}]\nprompts: {{source: {file}}}\n")
        said = str(CliRunner().invoke(app, ["run", str(yaml), "--dry-run"]).exception)
    else:
        said = refused(acts[command])
    assert said == f"{file}, line 1, key 'include.0.count': is required."


@pytest.mark.parametrize("detector", ["shapes", "mask2former", "mmdet"])
def test_a_class_that_the_detector_does_not_know_is_named_before_it_is_loaded(tmp_path, detector):
    wrong = "bench" if detector == "shapes" else "star"
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(geneval.single(name)) + "\n" for name in ("star", "bench")))
    text = f"generators: [{{name: nano}}]\nprompts: {{source: '{file}'}}\ndetector: {{name: {detector}}}\n"
    with pytest.raises(UnknownClass, match=f", line {1 + ('star', 'bench').index(wrong)}: class '{wrong}'"):
        load_prompts(parse(text, "x"))


values = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 20), st.floats(), st.text(max_size=5), st.just([]), st.just({}),
    st.sampled_from(["red", "left of", "heart", "counting", ["above", 0], [["x"]]]),
)  # fmt: skip


@st.composite
def changed(draw):
    """Official metadata with some keys dropped, renamed, given another value, or clauses exchanged."""
    metadata = copy.deepcopy(draw(st.sampled_from(geneval.official())))
    for _ in range(draw(st.integers(1, 3))):
        clauses = [
            c for k in ("include", "exclude") if isinstance(metadata.get(k), list) for c in metadata[k]
        ]
        place = draw(st.sampled_from([metadata, *(c for c in clauses if isinstance(c, dict))]))
        key = draw(st.sampled_from([*place, "count", "color", "position", "exclude", "variant", "extra"]))
        how = draw(st.sampled_from(["drop", "rename", "change", "turn"]))
        if how == "turn" and isinstance(place.get("include"), list):
            place["include"].reverse()
        elif how == "change":
            place[key] = draw(values)
        elif key in place:
            value = place.pop(key)
            if how == "rename":
                place[key + "s"] = value
    return metadata


@given(changed())
def test_what_is_accepted_can_be_judged_and_is_never_right_of_an_empty_image(metadata):
    try:
        found = check(metadata, "x")
    except MetadataError as caught:
        found, said = {}, str(caught)
    if not found:
        assert "\n" not in said
        assert said.startswith(("x, key '", "x: "))
        return
    assert found == metadata
    assert set(found) <= {"tag", "include", "exclude", "prompt", "variant"}
    assert colored(found, {}) == [[] for _ in found["include"]]
    assert not evaluate(found, {}, [[] for _ in found["include"]]).correct
    assert all(1 <= c["count"] <= MAX_OBJECTS for c in [*found["include"], *found.get("exclude", [])])


@given(st.sampled_from(geneval.official()), st.data())
def test_a_misspelt_key_is_always_found_with_the_right_one(metadata, data):
    metadata = copy.deepcopy(metadata)
    place = data.draw(st.sampled_from([metadata, *metadata["include"], *metadata.get("exclude", [])]))
    key = data.draw(st.sampled_from(sorted(place)))
    place[key + "_"] = place.pop(key)
    with pytest.raises(MetadataError, match=f"{key}_': unknown key; did you mean '{key}'"):
        check(metadata, "x")
