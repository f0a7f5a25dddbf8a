"""The table of verdicts: several judges of the same pictures, one of them added later, and nothing else changed."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from vhsbench.harness.common.images import pixels_digest, read_image
from vhsbench.harness.common.terminal import console
from vhsbench.harness.judges import JudgeError
from vhsbench.harness.store.keys import CANDIDATE
from vhsbench.harness.store.parquet import sha256
from vhsbench.harness.store.tables import StoreError, load_run
from vhsbench.harness.sweep.run import run
from vhsbench.harness.sweep.status import show, status

SMALL = {"limit": 16, "seeds": "[0]", "pool": 2, "gallery_prompts": 3}
BOTH = ["geneval", "fake-judge"]


def shards(out, tables=("candidates", "scores", "incidents")):
    """The bytes and times of all shards of some tables."""
    files = [f for table in tables for f in (out / "shards" / table).iterdir()]
    return {f.name: (f.read_bytes(), f.stat().st_mtime_ns) for f in files}


def nothing_to_do(config, prompts, todo):
    assert not todo
    return iter(())


def of(rows, judge):
    return rows[rows["judge"] == judge].reset_index(drop=True)


def test_the_default_judge_says_what_candidates_say(faults, tmp_path):
    found = load_run(run(faults.config(**SMALL), tmp_path / "r"))
    assert found.verdicts["judge"].unique().tolist() == ["geneval"]
    both = found.candidates.merge(found.verdicts, on=CANDIDATE, suffixes=("", "_"), validate="one_to_one")
    assert len(both) == 16 * 2
    assert (both["correct"] == both["correct_"]).all()
    assert (both["reason"] == both["reason_"]).all()
    assert both["value"].tolist() == both["correct"].astype(float).tolist()
    first = found.verdicts.iloc[0]
    name = f"images/fake/{first['prompt_id']:05d}_{first['index']:04d}.png"
    assert first["picture"] == pixels_digest(read_image(tmp_path / "r" / name))


def test_a_judge_that_is_added_changes_no_other_table(faults, runs, tmp_path, capsys):
    out, done = tmp_path / "r", []
    run(faults.config(**SMALL), out)
    before, kept, one = faults.tables(out), shards(out), load_run(out).verdicts
    run(faults.config(**SMALL, judges=BOTH), out, engine=runs.counted(done))
    assert faults.tables(out) == before
    assert shards(out) == kept
    assert len(done) == 2
    found = load_run(out)
    pd.testing.assert_frame_equal(of(found.verdicts, "geneval"), one, check_dtype=False)
    mine = of(found.verdicts, "fake-judge")
    assert mine["correct"].isna().all()
    assert mine[[*CANDIDATE, "picture"]].equals(of(found.verdicts, "geneval")[[*CANDIDATE, "picture"]])
    whole = load_run(run(faults.config(**SMALL, judges=BOTH), tmp_path / "whole"))
    assert found.verdicts.equals(whole.verdicts)
    assert (out / "verdicts.parquet").read_bytes() == (tmp_path / "whole/verdicts.parquet").read_bytes()
    assert found.info["judges"] == whole.info["judges"] == {
        "geneval": {"name": "shapes"}, "fake-judge": {"name": "fake-judge", "sha256": ""},
    }  # fmt: skip
    assert status(out)["dropped_judges"] == []
    run(faults.config(**SMALL), out)
    assert load_run(out).verdicts.equals(one)
    assert status(out)["dropped_judges"] == ["fake-judge"]
    show(status(out), console())
    assert "shards of judge 'fake-judge', which the run has no longer, are kept" in capsys.readouterr().out
    run(faults.config(**SMALL, judges=BOTH), out, engine=nothing_to_do)
    assert load_run(out).verdicts.equals(whole.verdicts)


def test_pictures_that_were_all_kept_are_not_made_again(faults, tmp_path):
    out, config = tmp_path / "r", SMALL | {"gallery_prompts": 16}
    run(faults.config(**config), out)
    loads = faults.loads()
    run(faults.config(**config, judges=BOTH), out)
    assert faults.loads() == loads
    whole = load_run(run(faults.config(**config, judges=BOTH), tmp_path / "whole"))
    assert load_run(out).verdicts.equals(whole.verdicts)


def test_a_candidate_that_is_made_otherwise_is_refused(faults, tmp_path):
    out = tmp_path / "r"
    run(faults.config(**SMALL), out)
    module = __import__("vhsbench_fakes")
    noise = module.FakeGenerator.noise
    module.FakeGenerator.noise = lambda self, seeds: noise(self, seeds) + 1
    with pytest.raises(
        StoreError,
        match=r"candidate 0 of prompt \d+, seed 0, made again by 'fake', is not the picture .*its pixels are others",
    ):
        run(faults.config(**SMALL, judges=BOTH), out)
    assert not [f for f in (out / "shards/verdicts").iterdir() if "fake-judge" in f.name]
    module.FakeGenerator.noise = noise
    run(faults.config(**SMALL, judges=BOTH), out)
    assert len(load_run(out).verdicts) == 2 * 16 * 2


def earlier(out):
    """Make a run what an earlier version left: without verdicts."""
    info = json.loads((out / "run.json").read_text())
    del (
        info["digests"]["verdicts.parquet"],
        info["identity"]["judges"],
        info["judges"],
        info["config"]["judges"],
    )
    (out / "run.json").write_text(json.dumps(info))
    for file in (out / "shards/verdicts").iterdir():
        file.unlink()
    (out / "verdicts.parquet").unlink()


def test_a_run_by_an_earlier_version_is_read_left_alone_and_judged_again(faults, tmp_path):
    out = run(faults.config(**SMALL), tmp_path / "r")
    whole = load_run(out)
    earlier(out)
    old = load_run(out)
    assert old.verdicts.drop(columns="picture").equals(
        whole.verdicts.drop(columns="picture").sort_values(CANDIDATE, ignore_index=True)
    )
    run(faults.config(**SMALL), out, engine=lambda *_: pytest.fail("an engine was asked"))
    assert not (out / "verdicts.parquet").exists()
    before = faults.tables(out)
    run(faults.config(**SMALL, judges=BOTH), out)
    assert faults.tables(out) == before
    pd.testing.assert_frame_equal(of(load_run(out).verdicts, "geneval"), whole.verdicts, check_dtype=False)


def test_an_earlier_run_whose_verdict_is_another_now_is_refused(faults, tmp_path):
    """Its pictures have no digests, but its verdicts tell."""
    out = run(faults.config(**SMALL | {"gallery_prompts": 0}), tmp_path / "r")
    earlier(out)
    file = sorted((out / "shards/candidates").glob("*.parquet"))[0]
    rows = pd.read_parquet(file).assign(correct=True, reason="")
    about = __import__("vhsbench.harness.store.parquet", fromlist=["x"])
    data = about.encode(rows, "candidates", about.about(file.read_bytes()))
    file.write_bytes(data)
    file.with_suffix(".sha256").write_text(sha256(data))
    with pytest.raises(
        StoreError, match=r"is not the picture that was judged before .its verdict is another"
    ):
        run(faults.config(**SMALL | {"gallery_prompts": 0}, judges=BOTH), out)


def test_a_damaged_table_or_shard_of_verdicts_is_seen_and_mended(faults, runs, tmp_path):
    out, done = tmp_path / "r", []
    run(faults.config(**SMALL, judges=BOTH), out)
    data = (out / "verdicts.parquet").read_bytes()
    (out / "verdicts.parquet").write_bytes(data[:-9] + b"damaged!!")
    with pytest.raises(StoreError, match=r"verdicts\.parquet is damaged: its SHA-256"):
        load_run(out)
    run(faults.config(**SMALL, judges=BOTH), out, engine=nothing_to_do)
    assert (out / "verdicts.parquet").read_bytes() == data
    victim = next((out / "shards/verdicts").glob("*prompt=00008_judge=fake-judge.parquet"))
    victim.write_bytes(victim.read_bytes()[:-9] + b"damaged!!")
    (out / "verdicts.parquet").unlink()
    run(faults.config(**SMALL, judges=BOTH), out, engine=runs.counted(done))
    assert done == ["fake_seed=0_prompt=00008"]
    assert (out / "verdicts.parquet").read_bytes() == data


def test_another_checkpoint_of_a_judge_is_refused_by_its_name(faults, runs, tmp_path):
    out, file = tmp_path / "r", tmp_path / "weights"
    file.write_text("one")
    judges = ["geneval", {"name": "fake-judge", "label": "red", "options": {"checkpoint": str(file)}}]
    run(faults.config(**SMALL, judges=judges), out)
    other = ["geneval", {"name": "fake-judge", "label": "red"}]
    said = runs.refused(faults.config(**SMALL, judges=other), out)
    assert "not made with what is here now" in said
    assert "judge 'red'" in said


def test_the_first_judge_says_what_is_right(faults, runs, tmp_path):
    out = tmp_path / "r"
    twice = [{"name": "geneval", "label": "other", "options": {"detector": "shapes"}}, "fake-judge"]
    run(faults.config(**SMALL, judges=twice), out)
    assert np.array_equal(of(load_run(out).verdicts, "other")["correct"], load_run(out).candidates["correct"])
    assert "judge" in runs.refused(faults.config(**SMALL, judges=["fake-judge"]), out)
    with pytest.raises(JudgeError, match="judge 'fake-judge' has no threshold"):
        run(faults.config(**SMALL, judges=["fake-judge", "geneval"]), tmp_path / "other")
    assert not (tmp_path / "other").exists()  # although it was begun: models were opened


def test_a_prompt_that_failed_has_no_verdicts(faults, tmp_path):
    from vhsbench.harness.sweep.run import load_prompts

    out = tmp_path / "r"
    victim = load_prompts(faults.config(**SMALL))[3]["prompt"]
    faults.set(poison=victim)
    run(faults.config(**SMALL), out)
    faults.set()
    run(faults.config(**SMALL, judges=BOTH), out)
    found = load_run(out)
    assert 3 not in set(found.verdicts["prompt_id"])
    assert len(found.verdicts) == 2 * len(found.candidates) == 2 * 15 * 2
