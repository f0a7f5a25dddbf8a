"""Runs that lost something: seen, and made again from what is whole."""

from __future__ import annotations

import shutil

import pytest

from vhsbench.harness.store.tables import StoreError, load_run
from vhsbench.harness.sweep.kept_images import Pictures
from vhsbench.harness.sweep.run import load_prompts, local, run


def remove(folder, key, out):
    for table in ("candidates", "scores", "incidents"):
        (folder / f"shards/{table}/{key}.parquet").unlink()


def rename(folder, key, out):
    for table in ("candidates", "scores", "incidents"):
        (folder / f"shards/{table}/{key}.parquet").rename(folder / f"shards/{table}/gone.parquet")


@pytest.mark.parametrize("lose", [remove, rename])
def test_a_run_without_all_its_shards_is_not_complete(runs, faults, tmp_path, lose):
    """Deleted, renamed or expired while it runs."""
    out = tmp_path / "r"

    def losing(config, prompts, todo):
        yield from local(config, prompts, todo)
        lose(out, "fake_seed=1_prompt=00008", out)

    with pytest.raises(StoreError) as error:
        run(faults.config(), out, engine=losing)
    assert "lacks 1 of its 6 shards of candidates, first fake_seed=1_prompt=00008; run it again" in str(
        error.value
    )
    assert runs.info(out)["status"] == "running"
    with pytest.raises(StoreError, match="is not finished"):
        load_run(out)
    run(faults.config(), out)
    assert len(load_run(out).candidates) == 24 * 2 * 3


def test_a_shard_under_another_ones_name_is_made_again(runs, faults, tmp_path):
    out = tmp_path / "r"
    whole = faults.tables(run(faults.config(), tmp_path / "whole"))
    runs.begin(faults.config(), out)
    for file in (out / "shards").rglob("fake_seed=0_prompt=00000.*"):
        shutil.copy(file, file.with_name(file.name.replace("00000", "00016")))
    done = []
    run(faults.config(), out, engine=runs.counted(done))
    assert "fake_seed=0_prompt=00016" in done
    assert faults.tables(out) == whole


def test_tables_of_two_doings_of_a_shard_are_never_taken_for_one(faults, tmp_path):
    """Killed while it was made again: scores of a prompt that failed before, candidates without it."""
    out, key = tmp_path / "r", "fake_seed=0_prompt=00008"
    victim = load_prompts(faults.config())[11]["prompt"]
    faults.set(poison=victim)
    run(faults.config(), out)
    faults.set()
    whole = run(faults.config(), tmp_path / "whole")
    for table in ("scores", "incidents"):
        for suffix in (".parquet", ".sha256"):
            name = f"shards/{table}/{key}{suffix}"
            shutil.copy(whole / name, out / name)
    (out / "candidates.parquet").unlink()
    run(faults.config(), out)
    found = load_run(out)
    for rows in (found.candidates, found.scores):
        assert (rows.query("seed == 0").groupby("prompt_id").size() == 3).all()
    assert len(found.scores) == len(found.candidates)


@pytest.mark.parametrize("name", ["candidates.parquet", "scores.parquet", "costs.parquet", "prompts.jsonl"])
def test_a_damaged_table_is_seen_and_mended_from_its_shards(faults, tmp_path, name):
    out = tmp_path / "r"
    whole = faults.tables(run(faults.config(), out))
    stamps = {f: f.stat().st_mtime_ns for f in (out / "shards").rglob("*.parquet")}
    data = bytearray((out / name).read_bytes())
    for at in range(0, len(data), max(1, len(data) // 40)):
        flipped = bytearray(data)
        flipped[at] ^= 1
        (out / name).write_bytes(flipped)
        with pytest.raises(
            StoreError, match=r"its SHA-256 is not the one in run\.json; `vhsbench run` with --out"
        ):
            load_run(out)
    run(faults.config(), out, engine=lambda *_: pytest.fail("a shard was made again") if _[2] else iter(()))
    assert (out / name).read_bytes() == bytes(data)
    assert faults.tables(out) == whole
    assert {f: f.stat().st_mtime_ns for f in (out / "shards").rglob("*.parquet")} == stamps
    (out / name).unlink()
    with pytest.raises(StoreError, match=f"has no {name}; `vhsbench run`"):
        load_run(out)
    run(faults.config(), out)
    assert load_run(out).info["status"] == "complete"


def test_a_damaged_table_and_a_damaged_shard_are_both_mended(runs, faults, tmp_path):
    out, done = tmp_path / "r", []
    whole = faults.tables(run(faults.config(), out))
    for file in (out / "scores.parquet", out / "shards/scores/fake_seed=1_prompt=00016.parquet"):
        file.write_bytes(file.read_bytes()[:-7] + b"damaged")
    run(faults.config(), out, engine=runs.counted(done))
    assert done == ["fake_seed=1_prompt=00016"]
    assert faults.tables(out) == whole


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_picture_is_seen_and_made_again(runs, faults, tmp_path, damage):
    out, done = tmp_path / "r", []
    config = faults.config(gallery_prompts=6)
    whole = faults.tables(run(config, out))
    victim = sorted((out / "images").rglob("*.png"))[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data if damage == "flipped" else data[:20])
    if damage == "gone":
        victim.unlink()
    assert f"a kept picture is damaged or gone, first {victim}" in Pictures(load_run(out)).notes()[0]
    run(config, out, engine=runs.counted(done))
    assert len(done) == 1
    assert faults.tables(out) == whole
    assert Pictures(load_run(out)).notes() == []


def test_a_whole_finished_run_is_left_alone_even_without_its_shards(faults, tmp_path):
    out = tmp_path / "r"
    run(faults.config(), out)
    shutil.rmtree(out / "shards")
    stamps = {f: f.stat().st_mtime_ns for f in out.rglob("*") if f.is_file() and not f.name.startswith(".")}
    run(faults.config(), out, engine=lambda *_: pytest.fail("an engine was asked"))
    assert not (out / "shards").exists()
    assert stamps == {f: f.stat().st_mtime_ns for f in stamps}
