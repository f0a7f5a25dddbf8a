"""Runs that are opened again: by what they were made of, what is whole, and what may be another."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest

import vhsbench.harness.sweep.run
from vhsbench.harness.geneval.nano_prompts import nano_prompts
from vhsbench.harness.store.tables import StoreError, load_run
from vhsbench.harness.sweep import identity
from vhsbench.harness.sweep.kept_images import Pictures
from vhsbench.harness.sweep.run import load_prompts, local, run
from vhsbench.harness.sweep.shards import Worker, WorkerError

MEASURE = vhsbench.harness.sweep.run._costs  # which the fixture `faults` takes away


@pytest.fixture
def prompts(tmp_path):
    """Writes a file of nano's prompts."""
    file = tmp_path / "prompts.jsonl"

    def write(rows):
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return file

    return write


def some(count):
    return nano_prompts()["validation"][:count]


def half(config, prompts, todo):
    """An engine that is killed after two shards."""
    yield from local(config, prompts, todo[:2])
    raise KeyboardInterrupt


def begin(config, out):
    """A run of which two shards are done."""
    with pytest.raises(KeyboardInterrupt):
        run(config, out, engine=half)


def counted(done):
    """The local engine, which adds the keys of the shards that it does to `done`."""

    def engine(config, prompts, todo):
        done.extend(shard.key for shard in todo)
        return local(config, prompts, todo)

    return engine


def run_json(out):
    return json.loads((out / "run.json").read_text())


def refused(config, out):
    """The sentence by which a run is refused, which has changed no file."""
    before = {f: f.read_bytes() for f in out.rglob("*") if f.is_file() and f.name != ".lock"}
    with pytest.raises(StoreError) as error:
        run(config, out)
    assert {f: f.read_bytes() for f in out.rglob("*") if f.is_file() and f.name != ".lock"} == before
    assert "\n" not in str(error.value)
    return str(error.value)


EDITED = {"tag": "single_object", "include": [{"class": "star", "count": 1}], "prompt": "a photo of a star"}


@pytest.mark.parametrize(
    ("change", "again"),
    [
        (lambda rows: [EDITED, *rows[1:]], ["fake_seed=0_prompt=00000"]),  # edited
        (lambda rows: [*rows, *some(32)[24:]], []),  # grown: whole shards stay as they are
        (lambda rows: rows[:12], ["fake_seed=0_prompt=00008"]),  # shrunk
    ],
)
@pytest.mark.parametrize("complete", [False, True])
def test_other_prompts_are_refused_by_name_or_made_again(faults, tmp_path, prompts, change, again, complete):
    how = {"source": prompts(some(24)), "limit": 1000, "seeds": "[0]"}
    config, out = faults.config(**how), tmp_path / "r"
    run(config, out) if complete else begin(config, out)
    there = {f.stem for f in (out / "shards/candidates").glob("[!.]*.parquet")}
    prompts(change(some(24)))
    said = refused(config, out)
    assert "not made with what is here now: the prompts; bring that back, choose another --out" in said
    assert "--redo" in said
    done = []
    run(config, out, engine=counted(done), redo=True)
    assert set(done) & there == set(again)
    fresh = run(config, tmp_path / "fresh")
    assert (out / "prompts.jsonl").read_bytes() == (fresh / "prompts.jsonl").read_bytes()
    for table in ("candidates", "scores"):
        assert (out / f"{table}.parquet").read_bytes() == (fresh / f"{table}.parquet").read_bytes()


@pytest.mark.parametrize("name", ["fake-known", "fake-verifier"])
def test_another_checkpoint_at_the_same_path_is_refused(faults, tmp_path, name):
    """Seen before anything is loaded where the factory says its identity, else as soon as it is loaded."""
    file = tmp_path / "weights"
    file.write_text("one")
    config = faults.config(verifiers=f"[{{name: {name}, checkpoint: '{file}'}}]")
    out = tmp_path / "r"
    begin(config, out)
    file.write_text("two")
    with pytest.raises(StoreError, match="the checkpoint of verifier 'fake-"):
        run(config, out)
    assert run_json(out)["status"] == "running"
    file.write_text("one")
    done = []
    run(config, out, engine=counted(done))
    assert len(done) == 4
    said = {json.dumps(about["loaded"]) for about in abouts(out)}
    assert len(said) == 1


def abouts(out):
    """The identities that the shards of candidates keep."""
    import pyarrow.parquet as pq

    files = sorted((out / "shards/candidates").glob("[!.]*.parquet"))
    return [json.loads(pq.read_schema(f).metadata[b"vhsbench"])["identity"] for f in files]


def test_a_checkpoint_that_changes_while_the_run_goes_on_is_seen(faults, tmp_path):
    file = tmp_path / "weights"
    file.write_text("one")
    config = faults.config(verifiers=f"[{{name: fake-known, checkpoint: '{file}'}}]")

    def changing(config, prompts, todo):
        yield from local(config, prompts, todo[:1])
        file.write_text("two")
        yield from local(config, prompts, todo[1:])

    with pytest.raises(
        StoreError, match=r"00008 with other than .*: the checkpoint of verifier 'fake-known'"
    ):
        run(config, tmp_path / "r", engine=changing)
    assert len(abouts(tmp_path / "r")) == 1


def test_files_that_change_while_they_are_loaded_are_seen(faults, tmp_path, monkeypatch):
    from vhsbench import generators

    file = tmp_path / "weights"
    file.write_text("one")
    config = faults.config(verifiers=f"[{{name: fake-known, checkpoint: '{file}'}}]")
    create = generators.create
    monkeypatch.setattr(generators, "create", lambda *a, **o: file.write_text("two") and create(*a, **o))
    with pytest.raises(WorkerError, match="files of the models of 'fake' changed while they were read"):
        Worker(config, load_prompts(config), 0)


def test_an_engine_is_held_to_what_the_run_was_opened_with(faults, tmp_path):
    def elsewhere(config, prompts, todo):
        for finished in local(config, prompts, todo):
            inputs = finished.identity.inputs
            other = inputs | {"detector": {"name": "mask2former"}}
            yield replace(finished, identity=replace(finished.identity, inputs=other))

    with pytest.raises(StoreError, match=r"the detector \(shapes then, mask2former now\)"):
        run(faults.config(), tmp_path / "r", engine=elsewhere)


def test_an_engine_that_loses_a_row_or_a_picture_is_a_bug(faults, tmp_path):
    def short(config, prompts, todo):
        for finished in local(config, prompts, todo):
            tables = finished.tables | {"candidates": finished.tables["candidates"].iloc[1:]}
            yield replace(finished, tables=tables)

    with pytest.raises(RuntimeError, match="came with other rows"):
        run(faults.config(), tmp_path / "r", engine=short)

    def blind(config, prompts, todo):
        for finished in local(config, prompts, todo):
            yield replace(finished, images={})

    with pytest.raises(RuntimeError, match="came with other pictures"):
        run(faults.config(), tmp_path / "p", engine=blind)


@pytest.fixture
def version(monkeypatch):
    """Sets the version of torch that identities see."""

    def set(text):
        real = identity.package_version
        monkeypatch.setattr(identity, "package_version", lambda name: text if name == "torch" else real(name))

    return set


def test_other_versions_of_libraries_never_stand_in_one_run(faults, tmp_path, version):
    out, config = tmp_path / "r", faults.config()
    version("9.1.0")
    begin(config, out)
    version("9.2.0")
    said = refused(config, out)
    assert "2 of its 6 shards, first fake_seed=0_prompt=00000, were not made with" in said
    assert "torch (9.1 then, 9.2 now)" in said
    version("9.1.7+cu130")  # a patch is no other version
    done = []
    run(config, out, engine=counted(done))
    assert len(done) == 4
    version("9.2.0")
    run(config, out, engine=counted(done))  # nothing is left to do: its rows are of one version
    assert len(done) == 4
    run(config, out, engine=counted(done), redo=True)
    assert len(done) == 10
    assert {about["surroundings"]["packages"]["torch"] for about in abouts(out)} == {"9.2"}


@pytest.mark.parametrize("complete", [False, True])
def test_rows_by_another_version_of_this_package_are_refused(faults, tmp_path, monkeypatch, complete):
    out, config = tmp_path / "r", faults.config()
    run(config, out) if complete else begin(config, out)
    monkeypatch.setattr(identity, "RESULTS", identity.RESULTS + 1)
    assert f"the results of this package ({identity.RESULTS - 1} then, {identity.RESULTS} now)" in refused(
        config, out
    )


def test_another_number_of_threads_is_refused_until_it_is_set(faults, tmp_path):
    out = tmp_path / "r"
    begin(faults.config(threads=1), out)
    assert "the number of threads (1 then, 2 now)" in refused(faults.config(threads=2), out)
    run(faults.config(threads=1), out)


def test_shards_of_earlier_versions_are_refused_and_made_again(faults, tmp_path):
    out, config = tmp_path / "r", faults.config()
    begin(config, out)
    for file in (out / "shards").rglob("*.parquet"):
        rows = pd.read_parquet(file)
        with vhsbench.harness.sweep.run.RunStore(out, config.model_dump(mode="json")) as store:
            store.write_shard(file.parent.name, file.stem, rows)
    assert "is by an earlier version of this package, which did not keep what its rows" in refused(
        config, out
    )
    done = []
    run(config, out, engine=counted(done), redo=True)
    assert len(done) == 6


def test_what_no_row_depends_on_may_change(faults, tmp_path):
    out = tmp_path / "r"
    begin(faults.config(), out)
    free = {"name": "other", "bootstrap": 9, "tolerance": 0.2, "budgets_ms": [5.0], "overlap": True}
    done = []
    run(faults.config(**free), out, engine=counted(done))
    assert len(done) == 4
    assert {k: run_json(out)["config"][k] for k in free} == free
    run(faults.config(bootstrap=11), out, engine=counted(done))  # nor does a finished run mind
    assert len(done) == 4
    assert run_json(out)["config"]["bootstrap"] == 11
    assert load_run(out).info["status"] == "complete"


def test_a_larger_gallery_makes_only_the_pictures_that_are_missing(faults, tmp_path):
    out, done = tmp_path / "r", []
    whole = faults.tables(run(faults.config(gallery_prompts=24), tmp_path / "whole"))
    run(faults.config(gallery_prompts=2), out)
    first = {f.name for f in out.rglob("*.png")}
    run(faults.config(gallery_prompts=24), out, engine=counted(done))
    assert len(first) == 6
    assert 0 < len(done) <= 3  # of the first seed, whose pictures are kept
    assert faults.tables(out) == whole


def test_the_settings_that_decide_rows_may_not_change(faults, tmp_path):
    out = tmp_path / "r"
    begin(faults.config(), out)
    assert "differs in 'pool'" in refused(faults.config(pool=2), out)
    assert "differs in 'generators.0.options.faults'" in refused(
        faults.config().model_copy(update={"generators": [entry(faults)]}), out
    )
    done = []
    run(faults.config(pool=2), out, engine=counted(done), redo=True)
    assert len(done) == 6
    fresh = run(faults.config(pool=2), tmp_path / "fresh")
    assert run_json(out)["digests"] == run_json(fresh)["digests"]


def entry(faults):
    """The fake generator with another option."""
    return faults.config().generators[0].model_copy(update={"options": {"faults": "elsewhere"}})


def test_each_opening_leaves_its_environment(faults, tmp_path):
    out = tmp_path / "r"
    begin(faults.config(), out)
    run(faults.config(), out)
    run(faults.config(), out)  # looks, and makes nothing
    found = run_json(out)["environments"]
    assert len(found) == 2
    assert all(e["opened"] and e["packages"]["torch"] for e in found)


def remove(folder, key, out):
    for table in ("candidates", "scores", "incidents"):
        (folder / f"shards/{table}/{key}.parquet").unlink()


def rename(folder, key, out):
    for table in ("candidates", "scores", "incidents"):
        (folder / f"shards/{table}/{key}.parquet").rename(folder / f"shards/{table}/gone.parquet")


@pytest.mark.parametrize("lose", [remove, rename])
def test_a_run_without_all_its_shards_is_not_complete(faults, tmp_path, lose):
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
    assert run_json(out)["status"] == "running"
    with pytest.raises(StoreError, match="is not finished"):
        load_run(out)
    run(faults.config(), out)
    assert len(load_run(out).candidates) == 24 * 2 * 3


def test_a_shard_under_another_ones_name_is_made_again(faults, tmp_path):
    out = tmp_path / "r"
    whole = faults.tables(run(faults.config(), tmp_path / "whole"))
    begin(faults.config(), out)
    for file in (out / "shards").rglob("fake_seed=0_prompt=00000.*"):
        shutil.copy(file, file.with_name(file.name.replace("00000", "00016")))
    done = []
    run(faults.config(), out, engine=counted(done))
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


def test_a_damaged_table_and_a_damaged_shard_are_both_mended(faults, tmp_path):
    out, done = tmp_path / "r", []
    whole = faults.tables(run(faults.config(), out))
    for file in (out / "scores.parquet", out / "shards/scores/fake_seed=1_prompt=00016.parquet"):
        file.write_bytes(file.read_bytes()[:-7] + b"damaged")
    run(faults.config(), out, engine=counted(done))
    assert done == ["fake_seed=1_prompt=00016"]
    assert faults.tables(out) == whole


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_picture_is_seen_and_made_again(faults, tmp_path, damage):
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
    run(config, out, engine=counted(done))
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


def measured(device="cpu", keep=None):
    """Stands for the measuring of a pipeline: one row a stage that T(N) is of."""
    from vhsbench.harness.cost.measure import Measured, _row
    from vhsbench.harness.inference.route import ROUTES

    def measure(cell, *_):
        if keep is not None:
            keep.append((cell.verifier or "none", cell.timing.repeats))
        needs = "latents" if cell.verifier else None
        stages = [*ROUTES[needs].fixed, *ROUTES[needs].per_candidate]
        keys = [(stage, 1, 1) for stage in stages] + [("end_to_end", n, 1) for n in (1, 2)]
        rows = [_row(cell, cell.generator, 1, key, wall_ms=1.0, device=device) for key in keys]
        return Measured(rows, {"needs": needs})

    return measure


@pytest.fixture
def costs(monkeypatch):
    """Lets runs measure, but nothing real; returns what was measured."""
    kept = []
    monkeypatch.setattr(vhsbench.harness.sweep.run, "_costs", MEASURE)
    monkeypatch.setattr(vhsbench.harness.sweep.run, "measure_in_fresh_process", measured(keep=kept))
    return kept


def test_costs_are_of_one_timing_and_measured_again_alone(faults, tmp_path, costs):
    out = tmp_path / "r"
    run(faults.config(), out)
    assert costs == [("none", 15), ("fake-verifier", 15)]
    more = faults.config(timing={"repeats": 20})
    assert "differs in 'timing.repeats'" in refused(more, out)
    run(more, out, redo=True, engine=lambda *_: pytest.fail("a shard was made again") if _[2] else iter(()))
    assert costs[2:] == [("none", 20), ("fake-verifier", 20)]
    assert load_run(out).info["cells"]["fake_steps=1_none"]["environment"] == 1


def test_costs_of_two_devices_never_stand_in_one_run(faults, tmp_path, costs, monkeypatch):
    out = tmp_path / "r"
    first = measured(keep=costs)

    def killed(cell, *_):
        if cell.verifier:
            raise KeyboardInterrupt
        return first(cell)

    monkeypatch.setattr(vhsbench.harness.sweep.run, "measure_in_fresh_process", killed)
    monkeypatch.setattr(identity, "device_name", lambda _: "A100")
    with pytest.raises(KeyboardInterrupt):
        run(faults.config(), out)
    monkeypatch.setattr(vhsbench.harness.sweep.run, "measure_in_fresh_process", first)
    monkeypatch.setattr(identity, "device_name", lambda _: "H100")
    assert "1 of its 2 measured pipelines, first fake_none, were not made with" in refused(
        faults.config(), out
    )
    assert "the device (A100 then, H100 now)" in refused(faults.config(), out)
    run(faults.config(), out, redo=True)
    assert [name for name, _ in costs] == ["none", "none", "fake-verifier"]


def test_costs_that_are_lost_keep_a_run_from_being_complete(faults, tmp_path, costs, monkeypatch):
    out = tmp_path / "r"
    honest = vhsbench.harness.sweep.run._costs

    def losing(expected, store, found, journal):
        keys = honest(expected, store, found, journal)
        (out / "shards/costs/fake_none.parquet").unlink()
        return keys

    monkeypatch.setattr(vhsbench.harness.sweep.run, "_costs", losing)
    with pytest.raises(StoreError, match=r"lacks 1 of its 2 shards of costs, first fake_none"):
        run(faults.config(), out)
    monkeypatch.setattr(vhsbench.harness.sweep.run, "_costs", honest)
    run(faults.config(), out)
    assert set(load_run(out).costs["verifier"]) == {"", "fake-verifier"}
