"""People's labels: the sample that they see, the page, their answers in a run, and what the report says of them."""

from __future__ import annotations

import html
import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from vhsbench.generators.noise import candidate_seed
from vhsbench.harness.cli import app
from vhsbench.harness.report import tables
from vhsbench.harness.report.build import _tables
from vhsbench.harness.report.derived import derive
from vhsbench.harness.report.label_page import PAGE, write_label_page
from vhsbench.harness.report.page import write_page
from vhsbench.harness.report.people import read_people
from vhsbench.harness.report.people_answers import FILE as ANSWERS
from vhsbench.harness.report.people_answers import Answer, read_answers, store
from vhsbench.harness.report.people_sample import FILE as SAMPLE
from vhsbench.harness.report.people_sample import STRATUM, draw, picks, read_sample, write_sample
from vhsbench.harness.stats.curves import winners
from vhsbench.harness.store.keys import CANDIDATE
from vhsbench.harness.store.tables import StoreError, load_run
from vhsbench.harness.sweep.remade import AllPictures, RemadeError


@pytest.fixture(scope="module")
def pictured(make_run, tmp_path_factory, marked):
    """A run that kept all pictures; its first prompt would break out of a page."""
    return make_run(tmp_path_factory.mktemp("people") / "run", gallery_prompts=24, marked=marked)


@pytest.fixture
def run(pictured, tmp_path):
    """A copy to write into, less the pictures."""
    shutil.copytree(pictured, tmp_path / "run", ignore=shutil.ignore_patterns("images", "shards"))
    return tmp_path / "run"


def answered(drawn, labeller, say):
    """Answers about the whole sample: what `say` gives for each row's number."""
    return [Answer(drawn.name, place, labeller, say(place), "") for place in range(len(drawn.rows))]


def test_the_sample_is_of_all_picks_each_stratum_in_turn(run):
    found = load_run(run)
    drawn = draw(found, 4)
    rows = drawn.rows
    best = winners(found.candidates, found.scores, 4)
    wanted = {tuple(row) for row in best[CANDIDATE].to_numpy()}
    first = found.candidates[found.candidates["index"] == 0]
    wanted |= {tuple(row) for row in first[CANDIDATE].to_numpy()}
    assert sorted(map(tuple, rows[CANDIDATE].to_numpy())) == sorted(wanted)
    times = best.groupby(CANDIDATE).size()
    for row in rows.itertuples():
        chosen = times.get((row.generator, row.steps, row.prompt_id, row.seed, row.index), 0)
        assert row.disputed == (0 < chosen < 3)
    place = rows.groupby(STRATUM).cumcount()
    assert place[place >= 2].index.min() > place[place < 2].index.max()
    assert draw(found, 4).data == drawn.data
    write_sample(run, drawn)
    assert read_sample(run).name == drawn.name
    assert list(rows["prompt_id"]) != sorted(rows["prompt_id"])


def test_with_all_labelled_the_statistics_are_plain_counts(run):
    found, drawn = load_run(run), draw(load_run(run), 4)
    write_sample(run, drawn)
    truth = np.random.default_rng(0).random(len(drawn.rows)) < 0.6
    store(run, drawn, answered(drawn, "anna", lambda place: "yes" if truth[place] else "no"))
    people = read_people(found)
    right = dict(zip(map(tuple, drawn.rows[CANDIDATE].to_numpy()), truth, strict=True))
    chosen = picks(found, 4)
    assert people.wanting == 0
    table = people.accuracies.set_index("verifier")
    assert set(table.index) == {"none", "vhs", "mllm-clip", "mllm-ae"}
    for verifier, row in table.iterrows():
        mine = chosen[chosen["verifier"] == verifier]
        by_people = np.mean([right[tuple(key)] for key in mine[CANDIDATE].to_numpy()])
        by_judge = mine.merge(found.candidates, on=CANDIDATE)["correct"].mean()
        assert row["accuracy"] == pytest.approx(100 * by_people, abs=1e-9)
        assert row["judged"] == pytest.approx(100 * by_judge, abs=1e-9)
        assert row["low"] < row["accuracy"] < row["high"]
        assert (row["labelled"], row["picks"], row["tuning"]) == (24, 24, 0)
    overall = people.agreements.set_index("task").loc["overall"]
    judge = drawn.rows["correct"].to_numpy(bool)
    assert overall["agreement"] == pytest.approx(100 * np.mean(judge == truth), abs=1e-9)
    assert overall["both_right"] == (judge & truth).sum()
    assert overall["second_right"] == (~judge & truth).sum()


def test_people_confirm_or_contradict_who_leads_by_the_judge(run):
    found, drawn = load_run(run), draw(load_run(run), 4)
    write_sample(run, drawn)
    chosen = picks(found, 4).merge(found.candidates, on=CANDIDATE)
    judged = chosen[chosen["verifier"] != "none"].groupby("verifier")["correct"].mean()
    first, second = judged.sort_values(ascending=False, kind="stable").index[:2]
    of = {
        v: {tuple(key) for key in chosen[chosen["verifier"] == v][CANDIDATE].to_numpy()}
        for v in (first, second)
    }
    keys = [tuple(key) for key in drawn.rows[CANDIDATE].to_numpy()]
    apart = len(of[second] - of[first]) / 24
    assert apart > 0.2
    for right, points, said in (
        (of[first] - of[second], apart, "people confirm that."),
        (of[second] - of[first], -apart, "people contradict that."),
        (of[first] & of[second], 0.0, "people's answers do not decide it."),
    ):
        store(
            run,
            drawn,
            answered(drawn, "anna", lambda place, right=right: "yes" if keys[place] in right else "no"),
        )
        agree, lead = read_people(found).conclusions
        assert agree.startswith("geneval and people agree on ")
        assert f"{100 * points:+.1f} points [" in lead
        assert lead.endswith(said)


def test_every_judge_is_checked_and_one_without_a_threshold_by_its_values(run):
    found = load_run(run)
    values = found.verdicts.assign(
        judge="a-score", value=np.linspace(0, 1, len(found.verdicts)), correct=None
    )
    both = replace(found, verdicts=pd.concat([values, found.verdicts], ignore_index=True))
    drawn = draw(both, 4)
    assert drawn.data == draw(found, 4).data  # who gives no verdict disputes none
    write_sample(run, drawn)
    store(run, drawn, answered(drawn, "anna", lambda place: "yes" if place % 3 else "no")[:-4])
    people = read_people(both)
    table = people.accuracies
    assert list(dict.fromkeys(table["judge"])) == ["geneval", "a-score"]  # the primary first
    chosen = picks(found, 4).merge(values, on=CANDIDATE)
    mine = table[table["judge"] == "a-score"].set_index("verifier")
    assert mine.loc["vhs", "judged"] == pytest.approx(
        100 * chosen.loc[chosen["verifier"] == "vhs", "value"].mean(), abs=1e-9
    )
    assert mine["accuracy"].notna().all()
    assert set(people.agreements["first"]) == {"geneval"}
    opposite = found.verdicts.assign(judge="other", correct=~found.verdicts["correct"].astype(bool))
    part = replace(found, verdicts=pd.concat([found.verdicts, opposite], ignore_index=True))
    assert draw(part, 4).rows["disputed"].all()


def test_unsure_is_half_right_and_labellers_are_averaged_but_kept_apart(run):
    found, drawn = load_run(run), draw(load_run(run), 4)
    write_sample(run, drawn)
    store(run, drawn, answered(drawn, "anna", lambda place: "yes"))
    store(run, drawn, answered(drawn, "ben", lambda place: "no" if place % 2 else "unsure"))
    people = read_people(found)
    assert people.labellers == ["anna", "ben"]
    assert set(people.labels[::2]) == {0.75}
    assert set(people.labels[1::2]) == {0.5}
    pairs = people.agreements[people.agreements["first"] == "labeller anna"].set_index("task")
    assert set(pairs["second"]) == {"labeller ben"}
    assert pairs.loc["overall", "n"] == len(drawn.rows) // 2  # those of which ben was sure
    assert pairs.loc["overall", "agreement"] == 0
    judged = people.agreements[people.agreements["first"] == "geneval"].set_index("task")
    assert judged.loc["overall", "n"] == -(-len(drawn.rows) // 2)  # as many yes as no decide nothing


def test_two_answers_of_each_stratum_are_wanted_first(run):
    found, drawn = load_run(run), draw(load_run(run), 4)
    write_sample(run, drawn)
    needed = int(np.minimum(np.bincount(drawn.strata), 2).sum())
    every = answered(drawn, "anna", lambda place: "yes" if drawn.rows["correct"][place] else "no")
    store(run, drawn, every[: needed - 1])
    people = read_people(found)
    assert people.wanting == 1
    assert people.accuracies["accuracy"].isna().any()
    assert "1 more answer is needed" in people.about[1]
    store(run, drawn, every[:needed])
    known = read_people(found).accuracies
    assert known["accuracy"].notna().all()
    assert (
        abs(known["accuracy"] - known["judged"]) < 3
    ).all()  # the judge is right wherever it was asked about


def test_the_command_draws_once_imports_and_prints(pictured, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(pictured, folder)
    told = CliRunner().invoke(app, ["label", str(folder), "--count", "30", "--json"])
    assert told.exit_code == 0, told.output
    said = json.loads(told.stdout)
    drawn = read_sample(folder)
    assert (said["sample"], said["shown"], said["best_of"]) == (drawn.name, 30, 4)
    page = (folder / PAGE).read_text(encoding="utf-8")
    assert '"items"' in page
    assert "geneval" not in page.lower().replace("vhsbench", "")  # nobody's verdict
    given = tmp_path / "answers.jsonl"
    given.write_text(
        "".join(
            json.dumps({"sample": drawn.name, "place": p, "labeller": "anna", "answer": a, "at": "now"})
            + "\n"
            for p, a in [(0, "yes"), (1, "no"), (0, "no")]
        )
    )
    told = CliRunner().invoke(app, ["label", str(folder), "--import", str(given), "--json"])
    assert told.exit_code == 0, told.output
    said = json.loads(told.stdout)
    assert (said["labellers"], said["answers"]) == (["anna"], 2)
    assert said["accuracies"][0]["accuracy"] is None
    stored = [json.loads(line) for line in (folder / ANSWERS).read_text().splitlines()]
    assert [(row["place"], row["answer"]) for row in stored] == [(0, "no"), (1, "no")]
    told = CliRunner().invoke(app, ["label", str(folder), "-n", "2"])
    assert isinstance(told.exception, ValueError)
    assert "has answers about picks of 4 of these candidates; move that folder away" in str(told.exception)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sample": "0123"}, "line 2: it answers another sample (0123) than the run's ("),
        ({"place": 10_000}, "line 2: 'place' must be a whole number from 0 to "),
        ({"place": True}, "line 2: 'place' must be a whole number from 0 to "),
        ({"answer": ["yes"]}, "line 2: 'answer' must be one of yes, no, unsure."),
        ({"labeller": "an\x1bna"}, "line 2: 'labeller' must be a name of 1 to 48 characters"),
        ({"labeller": ""}, "line 2: 'labeller' must be a name of 1 to 48 characters"),
    ],
)
def test_an_answer_that_is_none_stores_nothing(run, tmp_path, change, said):
    drawn = draw(load_run(run), 4)
    write_sample(run, drawn)
    good = {"sample": drawn.name, "place": 0, "labeller": "anna", "answer": "yes", "at": ""}
    file = tmp_path / "answers.jsonl"
    file.write_text(f"{json.dumps(good)}\n{json.dumps(good | change)}\n")
    with pytest.raises(ValueError, match=r"answers\.jsonl") as error:
        read_answers(file, drawn)
    assert said in str(error.value)
    told = CliRunner().invoke(app, ["label", str(run), "--import", str(file)])
    assert str(told.exception) == str(error.value)
    assert not (run / ANSWERS).exists()


def test_a_damaged_sample_and_one_of_other_candidates(run):
    found, drawn = load_run(run), draw(load_run(run), 4)
    write_sample(run, drawn)
    store(run, drawn, answered(drawn, "anna", lambda place: "yes"))
    text = (run / SAMPLE).read_text()
    (run / SAMPLE).write_text(text.replace('"disputed": true', '"disputed": 1', 1))
    with pytest.raises(
        StoreError, match=r"sample\.jsonl, line \d+: 'disputed' is missing or of the wrong kind"
    ):
        read_people(found)
    (run / SAMPLE).write_text(text)
    found.info["digests"]["candidates.parquet"] = "other"
    assert read_people(found) is None
    assert any("about earlier candidates" in note for note in derive(found).notes)


def test_answers_add_two_tables_and_a_section_and_change_nothing_else(run, tmp_path, marked):
    before = derive(load_run(run))
    assert before.people is None
    found = {name: tables.html(table) for name, table in _tables(before, with_published=False).items()}
    drawn = draw(load_run(run), 4)
    write_sample(run, drawn)
    labeller = marked[:40]
    store(run, drawn, answered(drawn, labeller, lambda place: "yes" if place % 5 else "no"))
    derived = derive(load_run(run))
    after = _tables(derived, with_published=False)
    assert set(after) - set(found) == {"people", "people_agreement"}
    assert {name: tables.html(after[name]) for name in found} == found
    assert "<td>24 of 24</td>" in tables.html(after["people"])
    write_page(derived, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert 'id="people"' in page
    assert labeller not in page
    assert f"1 person ({html.escape(labeller)})" in page.replace("&#39;", "&#x27;")


def test_a_page_keeps_to_its_size_and_shows_the_first_of_the_sample(pictured, tmp_path):
    found, drawn = load_run(pictured), draw(load_run(pictured), 4)
    sizes = {}
    for limit in (0.03, 1.0):
        shown = write_label_page(found, drawn, 40, tmp_path / "page.html", limit)
        sizes[shown] = (tmp_path / "page.html").stat().st_size
        assert sizes[shown] <= limit * 1e6
    fewer, whole = sizes
    assert 0 < fewer < whole == 40


def test_pictures_that_were_not_kept_are_made_again_and_only_by_the_same_generator(made, nano):
    found = load_run(made)
    rows = found.candidates[found.candidates["index"] == 3]
    kept = {int(i) for i in AllPictures(found)._kept.kept(rows)["prompt_id"]}
    lacking = rows[~rows["prompt_id"].isin(kept)].head(2)
    pictures = AllPictures(found).of(lacking)
    for row, picture in zip(lacking.itertuples(), pictures, strict=True):
        noise = nano.noise([candidate_seed(row.seed, row.prompt_id, 3)])
        (own,) = nano.decode(nano.denoise(nano.encode([found.prompts[row.prompt_id]["prompt"]]), noise))
        assert np.abs(np.asarray(own, float) - np.asarray(picture, float)).max() <= 1
    weights = {"key": "nano", "shown": "nano", "name": "nano", "weights": {"sha256": "0" * 64}}
    found.info["identity"] = {"generators": {"nano": {"results": 1, "generator": weights}}}
    with pytest.raises(RemadeError, match="cannot be made again, as the weights of generator 'nano'"):
        AllPictures(found).of(lacking)
