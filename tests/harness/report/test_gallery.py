"""Pictures that a run kept, and what becomes of those that are damaged or gone."""

from __future__ import annotations

import json
import shutil

import pandas as pd
import pytest
from PIL import Image

from vhsbench.harness.report.build import build
from vhsbench.harness.report.combine import load_runs
from vhsbench.harness.report.gallery import disagreements, disagreements_figure, winners_figure
from vhsbench.harness.store.tables import load_run
from vhsbench.harness.sweep.kept_images import Pictures, image_file

KEPT = 6 * 8  # pictures


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


def earlier(run):
    """Make a run one of an earlier version, which kept no digests, and its last environment alone."""
    info = json.loads((run / "run.json").read_text())
    info["environment"] = info.pop("environments")[-1]
    del info["digests"]
    (run / "run.json").write_text(json.dumps(info))


def lose(run, how):
    """Damage the picture of the first prompt's first candidate; returns its file."""
    file = image_file(run, "nano", 0, 0)
    if how == "gone":
        file.unlink()
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:30])
    elif how == "another":
        Image.new("RGB", (16, 16)).save(file)
    return file


def row(prompt_id, index):
    return {"generator": "nano", "steps": 1, "seed": 0, "prompt_id": prompt_id, "index": index}


def test_whole_pictures_are_found(made):
    found = Pictures(load_run(made))
    assert (found.lost, found.notes()) == ([], [])
    assert found.image(row(0, 7)).size == (16, 16)
    with pytest.raises(FileNotFoundError, match="no picture of prompt 1, candidate 0"):
        found.image(row(1, 0))


@pytest.mark.parametrize("how", ["gone", "cut", "another"])
def test_a_lost_picture_is_known_by_its_digest(copy, how):
    file = lose(copy, how)
    found = Pictures(load_run(copy))
    assert found.lost == [file]
    assert found.image(row(0, 0)) is None
    assert found.image(row(0, 1)) is not None
    assert len(found.kept(load_run(copy).candidates)) == KEPT
    assert found.notes() == [
        f"a kept picture is damaged or gone, first {file}; `vhsbench run` of the same configuration makes it again."
    ]


def test_pictures_of_earlier_versions_are_looked_at_as_they_are_asked_for(copy):
    earlier(copy)
    lose(copy, "cut")
    run = load_run(copy)
    assert run.notes == (
        f"{copy} was finished by an earlier version, which kept no digests: damage to its files cannot be seen.",
    )
    found = Pictures(run)
    assert found.lost == []
    assert found.image(row(0, 0)) is None
    assert "damaged or gone" in found.notes()[0]


@pytest.mark.parametrize("name", ["images/../../secret.png", "/etc/hostname", "images/../run.json"])
def test_digests_lead_to_no_file_elsewhere(copy, name):
    file = copy / "run.json"
    info = json.loads(file.read_text())
    file.write_text(json.dumps(info | {"digests": info["digests"] | {name: "0" * 64}}))
    assert Pictures(load_run(copy)).lost == []


def test_the_report_has_a_hole_and_says_so(copy, tmp_path, read_data, undrawn):
    for index in range(8):  # all of the first prompt, so that a winner is among them
        image_file(copy, "nano", 0, index).write_bytes(b"")
    with undrawn():  # test_figures_draw_a_hole draws
        summary = build(copy, out=tmp_path / "out")
    assert "8 kept pictures are damaged or gone" in summary["notes"][0]
    page = (tmp_path / "out" / "report.html").read_text()
    pictures = read_data(tmp_path / "out" / "report.html")["pools"][0]["pictures"]
    assert [int(cell) for cell, place in pictures.items() if place < 0] == list(range(8))
    assert f"All {KEPT - 8} kept pictures are shown, less 8 that are damaged or gone." in page
    assert "8 kept pictures are damaged or gone" in page
    shown = pd.read_csv(tmp_path / "out" / "figures" / "gallery.csv")
    assert shown.loc[shown["prompt_id"] == 0, "verifier"].tolist() == ["mllm-ae", "mllm-clip", "vhs"]


def test_figures_draw_a_hole(loaded):
    picks = loaded.scores.query("index == 0 and prompt_id < 2").assign(prompt="p", correct=True)
    fig = winners_figure(picks, lambda _: None, "title")
    said = [text.get_text() for part in fig.subfigs for axes in part.axes for text in axes.texts]
    assert said == ["picture\nlost"] * len(picks)
    pictures = Pictures(loaded)
    cases = disagreements(loaded.candidates, loaded.scores, pictures).assign(prompt="p")
    fig = disagreements_figure(cases, lambda _: None, "title")
    said = [text.get_text() for part in fig.subfigs for axes in part.axes for text in axes.texts]
    assert said == ["picture\nlost"] * len(cases)


def test_several_runs_say_each_their_own(make_run, tmp_path):
    a, b = make_run(tmp_path / "a"), make_run(tmp_path / "b", seeds=[1])
    lost = [lose(a, "gone"), lose(b, "cut")]
    earlier(b)
    run = load_runs([a, b])
    assert len(run.notes) == 1
    assert run.info["combined"][1]["environments"] == [{"cpu": "test", "python": "3"}]
    found = Pictures(run)
    assert found.lost == lost[:1]
    assert found.image(row(0, 0) | {"seed": 1}) is None
    assert found.lost == lost
