"""Folders of images to results.jsonl: formats, resuming, damage, and a user's mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vhsbench.generators.nano import world
from vhsbench.harness.common.images import read_image
from vhsbench.harness.geneval import folders
from vhsbench.harness.geneval.evaluation import damaged_file, evaluate_folder
from vhsbench.harness.geneval.folders import FolderError
from vhsbench.harness.geneval.prompts import color, counting, single, two
from vhsbench.harness.geneval.shapes import ShapeDetector

PROMPTS = [single("star"), color("star", "red"), counting("star", 2), two("star", "circle")]


def picture(*items: world.Item) -> Image.Image:
    return Image.fromarray((world.render(items) * 255).round().astype(np.uint8))


STAR = world.Item("star", "red", 16, 16, 8)
CIRCLE = world.Item("circle", "blue", 48, 48, 8)


def write_prompt(folder, index, metadata, images):
    prompt = folder / f"{index:05d}"
    (prompt / "samples").mkdir(parents=True)
    (prompt / "metadata.jsonl").write_text(json.dumps(metadata))
    for number, image in enumerate(images):
        image.save(prompt / "samples" / f"{number:04d}.png")


@pytest.fixture
def folder(tmp_path):
    """Four prompts with two images each: one star, and a star and a circle."""
    for index, prompt in enumerate(PROMPTS):
        write_prompt(tmp_path / "images", index, prompt, [picture(STAR), picture(STAR, CIRCLE)])
    return tmp_path / "images"


def rows_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_folder_as_geneval_has_it_is_read(folder):
    found = folders.read_folder(folder)
    assert [s.metadata for s in found.samples] == [p for p in PROMPTS for _ in range(2)]
    assert (found.empty, found.ignored) == ([], [])
    assert np.array_equal(read_image(found.samples[1].file), picture(STAR, CIRCLE))


def test_verdicts_of_a_folder(folder, tmp_path):
    out = tmp_path / "deep" / "results.jsonl"
    outcome = evaluate_folder(folder, out, ShapeDetector(), batch_size=3)
    rows = rows_of(out)
    assert (outcome.evaluated, outcome.resumed, outcome.damaged) == (8, 0, [])
    assert [r["correct"] for r in rows] == [True, True, True, True, False, False, False, True]
    assert rows[4]["reason"] == "expected star>=2, found 1"
    assert list(rows[0]) == [*folders.KEYS, "detector", "image_sha256"]
    assert rows[0]["filename"] == str(
        folder / "00000" / "samples" / "0000.png"
    )  # as the official evaluator's
    assert json.loads(rows[0]["metadata"]) == PROMPTS[0]
    (star,) = json.loads(rows[0]["details"])["star"]
    assert len(star) == 5
    assert star == [float(np.float32(x)) for x in star]
    assert json.loads(rows[0]["detector"]) == {"name": "shapes"}


def test_pandas_reads_the_rows_as_the_official_script_does(invoke, folder, tmp_path):
    evaluate_folder(folder, tmp_path / "r.jsonl", ShapeDetector())
    table = pd.read_json(tmp_path / "r.jsonl", orient="records", lines=True)
    assert table["correct"].dtype == bool
    assert len(table.groupby("metadata")) == 4
    result, _ = invoke("summary", tmp_path / "r.jsonl")
    assert f"% correct images: {table['correct'].mean():.2%}" in result.stdout
    means = [part["correct"].mean() for _, part in table.groupby("tag", sort=False)]
    assert f"Overall score (avg. over tasks): {np.mean(means):.5f}" in result.stdout


class Dies(ShapeDetector):
    """Stops as by kill in its third batch."""

    batches = 0

    def detect(self, images):
        self.batches += 1
        if self.batches > 2:
            raise KeyboardInterrupt
        return super().detect(images)


@pytest.mark.parametrize("torn", [b"", b'{"filename": "', b"half a line with \xff"])
def test_a_killed_evaluation_resumes_to_the_same_rows(folder, tmp_path, torn):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    evaluate_folder(folder, whole, ShapeDetector(), batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        evaluate_folder(folder, cut, Dies(), batch_size=2)
    assert len(rows_of(cut)) == 4
    with cut.open("ab") as stream:
        stream.write(torn)
    outcome = evaluate_folder(folder, cut, ShapeDetector(), batch_size=2)
    assert (outcome.evaluated, outcome.resumed) == (8, 4)
    assert cut.read_bytes() == whole.read_bytes()


def test_a_last_line_without_its_end_is_kept(folder, tmp_path):
    out = tmp_path / "r.jsonl"
    evaluate_folder(folder, out, ShapeDetector())
    whole = out.read_bytes()
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]).rstrip(b"\n"))
    assert evaluate_folder(folder, out, ShapeDetector()).resumed == 3
    assert out.read_bytes() == whole


def test_finished_work_is_not_done_again(folder, tmp_path):
    out = tmp_path / "r.jsonl"
    evaluate_folder(folder, out, ShapeDetector())
    before = out.read_bytes()
    died = Dies()
    assert evaluate_folder(folder, out, died).evaluated == 8
    assert died.batches == 0
    assert out.read_bytes() == before


def test_damaged_images_are_listed_counted_and_retried(invoke, folder, tmp_path):
    out, broken = tmp_path / "r.jsonl", folder / "00001" / "samples" / "0000.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    (folder / "00002" / "samples" / "0001.png").write_bytes(b"")
    result, _ = invoke("evaluate", folder, "--out", out, "--detector", "shapes", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["evaluated"] == 6
    assert "damaged, in no score: 2" in result.stderr
    listed = rows_of(damaged_file(out))
    assert [r["filename"][-21:] for r in listed] == [
        "00001/samples/0000.png"[-21:],
        "00002/samples/0001.png"[-21:],
    ]
    assert len(rows_of(out)) == 6
    assert "Damaged, in no score: 2" in invoke("summary", out)[0].stdout
    broken.write_bytes(whole)
    assert evaluate_folder(folder, out, ShapeDetector()).evaluated == 7
    assert len(rows_of(damaged_file(out))) == 1


def test_each_results_file_has_its_own_list_of_damaged_images(invoke, folder, tmp_path):
    broken = folder / "00001" / "samples" / "0000.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    first, second = tmp_path / "results.seed0", tmp_path / "results.seed1"
    evaluate_folder(folder, first, ShapeDetector())
    broken.write_bytes(whole)
    evaluate_folder(folder, second, ShapeDetector())
    assert "Damaged, in no score: 1" in invoke("summary", first)[0].stdout
    assert "Damaged, in no score: 0" in invoke("summary", second)[0].stdout


@given(st.lists(st.text("ab.", min_size=1, max_size=4), min_size=2, max_size=2, unique=True),
       st.sampled_from(["", ".jsonl", ".json"]), st.sampled_from(["", ".jsonl", ".json"]))  # fmt: skip
def test_no_two_results_files_share_a_list(names, end, other):
    results = {Path(f"r{names[0]}{end}"), Path(f"r{names[1]}{other}")}
    assert len({damaged_file(r) for r in results}) == len(results)


def test_what_lies_beside_images_is_said(invoke, folder, tmp_path):
    samples = folder / "00001" / "samples"
    for name in ("0000.jpg", "notes.txt", "._0000.png", ".DS_Store"):
        (samples / name).write_bytes(b"")
    (folder / "\u00b2").mkdir()  # a digit to Python, and no number
    result, _ = invoke("evaluate", folder, "--out", tmp_path / "r.jsonl", "--detector", "shapes", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["evaluated"], found["damaged"]) == (8, [])
    assert found["ignored"] == ["00001/samples/0000.jpg", "00001/samples/notes.txt"]
    assert result.stderr.splitlines()[-1] == (
        f"ignored in {folder}: 2 names that are no pictures, first 00001/samples/0000.jpg"
    )


def test_images_are_judged_in_natural_order(tmp_path):
    write_prompt(tmp_path / "images", 0, PROMPTS[0], [picture(STAR)] * 12)
    samples = tmp_path / "images" / "00000" / "samples"
    for file in sorted(samples.iterdir()):
        file.rename(samples / f"{int(file.stem)}.png")
    evaluate_folder(tmp_path / "images", tmp_path / "r.jsonl", ShapeDetector())
    assert [Path(r["filename"]).stem for r in rows_of(tmp_path / "r.jsonl")] == [str(i) for i in range(12)]


def test_a_prompt_without_images_is_reported(folder, tmp_path):
    (folder / "00009").mkdir()
    (folder / "00009" / "metadata.jsonl").write_text(json.dumps(PROMPTS[0]))
    outcome = evaluate_folder(folder, tmp_path / "r.jsonl", ShapeDetector())
    assert outcome.damaged == [{"filename": str(folder / "00009"), "error": "no images"}]
    assert outcome.evaluated == 8


def test_mask2former_evaluates_a_small_folder_end_to_end(tmp_path, detector):
    rng = np.random.default_rng(0)
    shades = rng.integers(0, 256, (2, 6, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    prompts = [single("dog"), counting("cat", 2)]
    for index, prompt in enumerate(prompts):
        write_prompt(tmp_path / "images", index, prompt, [Image.fromarray(s) for s in shades])
    outcome = evaluate_folder(tmp_path / "images", tmp_path / "r.jsonl", detector, batch_size=3)
    rows = rows_of(tmp_path / "r.jsonl")
    assert outcome.evaluated == len(rows) == 4
    record = json.loads(rows[0]["detector"])
    assert (record["pipeline"], record["checkpoint_sha256"]) == ("geneval", "random")
    kept = json.loads(rows[0]["details"])
    assert kept
    assert all(box[4] > np.float32(0.3) for found in kept.values() for box in found)
    assert all(len(found) <= 16 for found in kept.values())


def test_results_are_resumed_from_another_directory_and_through_a_link(folder, tmp_path, monkeypatch):
    out, link, moved = tmp_path / "r.jsonl", tmp_path / "link", tmp_path / "moved"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        evaluate_folder(Path("images"), out, Dies(), batch_size=2)
    monkeypatch.chdir(folder)
    link.symlink_to(folder)
    for spelled in (Path("../images"), folder, link, Path(".")):
        assert evaluate_folder(spelled, out, ShapeDetector()).evaluated == 8
    before = out.read_bytes()
    monkeypatch.chdir(tmp_path)
    folder.rename(moved)
    assert evaluate_folder(moved, out, ShapeDetector()).resumed == 8
    assert out.read_bytes() == before
    assert [r["correct"] for r in rows_of(out)] == [True, True, True, True, False, False, False, True]
    assert [r["filename"] for r in rows_of(out)][3:5] == [
        "images/00001/samples/0001.png", "../images/00002/samples/0000.png"
    ]  # fmt: skip


def test_images_of_another_folder_or_under_an_old_name_are_not_taken_for_judged(folder, tmp_path):
    out, other = tmp_path / "r.jsonl", tmp_path / "other"
    evaluate_folder(folder, out, ShapeDetector())
    for index, prompt in enumerate(PROMPTS):  # the same names and prompts, as of another generator
        write_prompt(other, index, prompt, [picture(CIRCLE), picture(CIRCLE)])
    with pytest.raises(FolderError, match=r"has a row of another image than .*other/00000/samples/0000\.png"):
        evaluate_folder(other, out, ShapeDetector())
    picture(CIRCLE).save(folder / "00003" / "samples" / "0001.png")
    with pytest.raises(
        FolderError, match=r"another image than .*images/00003/samples/0001\.png; give another"
    ):
        evaluate_folder(folder, out, ShapeDetector())


def test_another_detector_or_folder_needs_another_file(folder, tmp_path):
    out = tmp_path / "r.jsonl"
    evaluate_folder(folder, out, ShapeDetector())

    class Other(ShapeDetector):
        name = "other"

    with pytest.raises(FolderError, match="judged by another detector"):
        evaluate_folder(folder, out, Other())
    write_prompt(tmp_path / "more", 0, PROMPTS[0], [picture(STAR)])
    with pytest.raises(FolderError, match="that the folder does not; give another --out"):
        evaluate_folder(tmp_path / "more", out, ShapeDetector())
    (folder / "00000" / "metadata.jsonl").write_text(json.dumps(PROMPTS[1]))
    with pytest.raises(FolderError, match="that the folder does not"):
        evaluate_folder(folder, out, ShapeDetector())


def test_users_mistakes_are_one_sentence_each(invoke, folder, tmp_path):
    def error(*arguments):
        result, sentence = invoke(
            "evaluate", *arguments, "--detector", "shapes", "--out", tmp_path / "r.jsonl"
        )
        assert result.exit_code == 1
        assert "\n" not in sentence
        return sentence

    assert "is no folder" in error(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "holds no images; they are expected as" in error(tmp_path / "empty")
    assert "has no option 'checkpoint'" in error(folder, "--checkpoint", "x.pth")
    assert "unknown device 'foo'" in error(folder, "--device", "foo")
    metadata = folder / "00001" / "metadata.jsonl"
    for content, sentence in {
        "{": "00001/metadata.jsonl: not JSON: Expecting property name",
        json.dumps({"tag": "colors"}): "00001/metadata.jsonl, key 'include': is required.",
        json.dumps(
            {**PROMPTS[1], "include": [{"class": "star", "count": 1, "color": "teal"}]}
        ): "00001/metadata.jsonl, key 'include.0.color': unknown colour 'teal'; known: black, blue, brown",
        json.dumps(single("starr")): "class 'starr' is unknown to the detector shapes; did you mean 'star'?",
    }.items():
        metadata.write_text(content)
        assert sentence in error(folder)
    metadata.unlink()
    assert "00001/metadata.jsonl cannot be read: no such file" in error(folder)


def test_a_missing_checkpoint_is_one_sentence(invoke, folder, tmp_path):
    _, sentence = invoke("evaluate", folder, "--checkpoint", tmp_path / "none.pth", "--out", tmp_path / "r")
    assert sentence.startswith(
        f"detector checkpoint {tmp_path}/none.pth does not exist; give mmdet's .pth file"
    )


def test_a_whole_row_that_is_refused_is_not_cut_off(folder, tmp_path):
    out = tmp_path / "r.jsonl"
    out.write_bytes(b'{"filename": "a", "filename": "a"}')
    with pytest.raises(FolderError, match=r"r\.jsonl, line 1: not JSON: the key 'filename' is given twice"):
        evaluate_folder(folder, out, ShapeDetector())
    assert out.read_bytes().startswith(b'{"filename": "a", "filename": "a"}')


def test_summary_as_json_names_both_overalls(invoke, folder, tmp_path):
    evaluate_folder(folder, tmp_path / "r.jsonl", ShapeDetector())
    found = json.loads(invoke("summary", tmp_path / "r.jsonl", "--json")[0].stdout)
    assert found["prompt_weighted"]["mean"] == pytest.approx(5 / 8)
    assert found["task_mean"]["prompts"] == 4
    assert found["detectors"] == ['{"name": "shapes"}']
