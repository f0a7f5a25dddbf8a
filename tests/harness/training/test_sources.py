from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vhsbench.generators.nano.world import SHAPES
from vhsbench.harness.geneval import prompts as geneval
from vhsbench.harness.geneval.detector import UnknownClass
from vhsbench.harness.geneval.metadata import MetadataError
from vhsbench.harness.geneval.shapes import ShapeDetector
from vhsbench.harness.training.data_config import CaptionsConfig, LabelsConfig
from vhsbench.harness.training.sources import (
    TrainingSourceError,
    caption_samples,
    label_prompts,
    label_samples,
    samples_sha256,
    split,
)

EVERY = geneval.every(SHAPES)


def labels(tmp_path, prompts, tag=None, seed=0, **more):
    config = LabelsConfig(prompts=str(prompts), **more)
    return label_prompts(config, ShapeDetector(), seed, tmp_path / "work", tag)


def write(file, data):
    file.write_text(data if isinstance(data, str) else json.dumps(data))
    return file


def test_captions_are_strings_or_llavas_conversations(tmp_path):
    llava = {
        "id": "004539375", "image": "00453/004539375.jpg",
        "conversations": [
            {"from": "human", "value": "Render a clear and concise summary of the photo.\n<image>"},
            {"from": "gpt", "value": "select luxury\nfurniture "},
        ],
    }  # fmt: skip
    file = write(tmp_path / "c.json", ["a red star", llava, "a red star"])
    found = caption_samples(CaptionsConfig(source=file))
    assert [(s.prompt_id, s.index, s.metadata["prompt"]) for s in found] == [
        (0, 0, "a red star"), (1, 0, "select luxury furniture"), (0, 1, "a red star"),
    ]  # fmt: skip
    assert len(caption_samples(CaptionsConfig(source=file, limit=1))) == 1
    pictured = caption_samples(
        CaptionsConfig(source=write(tmp_path / "l.json", [llava]), images=tmp_path / "images")
    )
    assert pictured[0].picture == tmp_path / "images" / "00453/004539375.jpg"


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ("[", r"c\.json: not JSON"),
        ({}, "no JSON list of captions"),
        ([], "no JSON list of captions"),
        (["a", 3], "entry 1: neither a text nor a LLaVA conversation"),
        ([{"conversations": []}], "entry 0: neither a text"),
        ([{"conversations": [{"from": "gpt", "value": " "}]}], "its caption is empty"),
    ],
)
def test_bad_captions_are_one_sentence(tmp_path, entries, sentence):
    with pytest.raises(TrainingSourceError, match=sentence):
        caption_samples(CaptionsConfig(source=write(tmp_path / "c.json", entries)))


def test_pictures_stay_in_their_folder(tmp_path):
    entry = {"image": "../../etc/x.jpg", "conversations": [{"from": "gpt", "value": "a"}]}
    file = write(tmp_path / "c.json", [entry])
    with pytest.raises(TrainingSourceError, match="would leave"):
        caption_samples(CaptionsConfig(source=file, images=tmp_path / "images"))
    with pytest.raises(TrainingSourceError, match="names no image"):
        caption_samples(CaptionsConfig(source=write(tmp_path / "d.json", ["a"]), images=tmp_path))


@settings(max_examples=30)
@given(
    picks=st.lists(st.integers(0, len(EVERY) - 1), min_size=2, max_size=60, unique=True),
    share=st.floats(0.01, 0.9),
    seed=st.integers(0, 5),
)
def test_no_picture_is_on_both_sides(picks, share, seed):
    prompts = [EVERY[i] for i in picks]
    train, validation = split(prompts, share, seed)
    assert len(train) + len(validation) == len(prompts)
    assert not {geneval.picture(p) for p in train} & {geneval.picture(p) for p in validation}
    assert not {p["prompt"] for p in train} & {p["prompt"] for p in validation}
    if len({geneval.picture(p) for p in prompts}) > 1:
        assert train
        assert validation
    assert (train, validation) == split(prompts, share, seed)


def test_the_split_is_by_task_and_about_the_share():
    train, validation = split(EVERY, 0.1, 0)
    for tag in ("counting", "position", "color_attr"):
        held, kept = (sum(p["tag"] == tag for p in part) for part in (validation, train))
        assert held / (held + kept) == pytest.approx(0.1, abs=0.03)


def test_twenty_variants_of_each_prompt():
    samples = label_samples(EVERY[:3], 20)
    assert [(s.prompt_id, s.index) for s in samples] == [(p, i) for p in range(3) for i in range(20)]
    assert samples_sha256(samples) != samples_sha256(samples[:-1])
    again = label_samples([EVERY[0], EVERY[1], EVERY[0]], 1)
    assert [(s.prompt_id, s.index) for s in again] == [(0, 0), (1, 0), (0, 1)]


def test_metadata_lines_are_taken_as_they_are(tmp_path):
    chosen = EVERY[::400]
    lines = [json.dumps({**p, "variant": k}) for p in chosen for k in range(2)]
    found = labels(tmp_path, write(tmp_path / "p.jsonl", "\n".join(lines)), validation_share=0.3)
    assert sorted(map(str, found[0] + found[1])) == sorted(map(str, chosen))


def test_texts_are_tagged_once(tmp_path):
    texts = [p["prompt"] for p in EVERY[::400]] + ["a photo of a unicorn"]
    tags = [p["tag"] for p in EVERY[::400]] + ["single_object"]
    calls = []

    def tag(prompts):
        calls.append(list(prompts))
        return tags

    for file in (
        write(tmp_path / "p.txt", "\n".join(texts)),
        write(tmp_path / "p.json", texts),
    ):
        found = labels(tmp_path, file, tag)
        assert sorted(map(str, found[0] + found[1])) == sorted(map(str, EVERY[::400]))
        assert [json.loads(x)["prompt"] for x in (tmp_path / "work" / "refused.jsonl").open()] == [
            "a photo of a unicorn"
        ]
    assert calls == [texts]  # the answers are kept
    with pytest.raises(TrainingSourceError, match=r"no GenEval metadata; set data.labels.tagger"):
        labels(tmp_path, tmp_path / "p.txt")


def test_nano_and_geneval_have_prompts_of_their_own(tmp_path):
    nano = labels(tmp_path, "nano", limit=300, validation_share=0.1)
    assert tuple(map(len, nano)) == (300, 30)
    whole = labels(tmp_path, "nano")
    assert not {p["prompt"] for p in whole[0]} & {p["prompt"] for p in whole[1]}

    class Coco(ShapeDetector):
        classes = geneval.coco_classes()

    found = label_prompts(LabelsConfig(draws=40), Coco(), 0, tmp_path)
    pictures = {geneval.picture(p) for p in found[0] + found[1]}
    assert len(pictures) > 100
    assert not pictures & {geneval.picture(p) for p in geneval.official()}


@pytest.mark.parametrize(
    ("text", "error", "sentence"),
    [
        ('{"tag": "colors"', TrainingSourceError, r"p\.jsonl, line 1: not JSON"),
        ('{"tag": "colors"}', MetadataError, r"p\.jsonl, line 1, key 'include': is required"),
        ('{"tag": "colours", "prompt": "x", "include": [{"class": "star", "count": 1}]}', MetadataError,
         r"p\.jsonl, line 1, key 'tag': unknown tag 'colours'; did you mean 'colors'\?"),
        ("", TrainingSourceError, "has no prompts"),
        (json.dumps(EVERY[0]), TrainingSourceError, "at least 2 are split"),
        (json.dumps(geneval.single("cat")) + "\n" + json.dumps(EVERY[0]), UnknownClass, r"p\.jsonl, line 1: class 'cat'"),
    ],
)  # fmt: skip
def test_bad_prompts_are_one_sentence(tmp_path, text, error, sentence):
    with pytest.raises(error, match=sentence):
        labels(tmp_path, write(tmp_path / "p.jsonl", text))
    with pytest.raises(TrainingSourceError, match="cannot be read"):
        labels(tmp_path, tmp_path / "absent")
