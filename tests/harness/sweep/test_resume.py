"""Runs that are opened again: what they were made of, and what may be another."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest

import vhsbench.harness.sweep.run
from vhsbench.harness.geneval.nano_prompts import nano_prompts
from vhsbench.harness.store.tables import StoreError, load_run
from vhsbench.harness.sweep import identity
from vhsbench.harness.sweep.run import load_prompts, local, run
from vhsbench.harness.sweep.shards import Worker, WorkerError


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
def test_other_prompts_are_refused_by_name_or_made_again(
    runs, faults, tmp_path, prompts, change, again, complete
):
    how = {"source": prompts(some(24)), "limit": 1000, "seeds": "[0]"}
    config, out = faults.config(**how), tmp_path / "r"
    run(config, out) if complete else runs.begin(config, out)
    there = {f.stem for f in (out / "shards/candidates").glob("[!.]*.parquet")}
    prompts(change(some(24)))
    said = runs.refused(config, out)
    assert "not made with what is here now: the prompts; bring that back, choose another --out" in said
    assert "--redo" in said
    done = []
    run(config, out, engine=runs.counted(done), redo=True)
    assert set(done) & there == set(again)
    fresh = run(config, tmp_path / "fresh")
    assert (out / "prompts.jsonl").read_bytes() == (fresh / "prompts.jsonl").read_bytes()
    for table in ("candidates", "scores"):
        assert (out / f"{table}.parquet").read_bytes() == (fresh / f"{table}.parquet").read_bytes()


@pytest.mark.parametrize("name", ["fake-known", "fake-verifier"])
def test_another_checkpoint_at_the_same_path_is_refused(runs, faults, tmp_path, name):
    """Seen before anything is loaded where the factory says its identity, else as soon as it is loaded."""
    file = tmp_path / "weights"
    file.write_text("one")
    config = faults.config(verifiers=f"[{{name: {name}, checkpoint: '{file}'}}]")
    out = tmp_path / "r"
    runs.begin(config, out)
    file.write_text("two")
    with pytest.raises(StoreError, match="the checkpoint of verifier 'fake-"):
        run(config, out)
    assert runs.info(out)["status"] == "running"
    file.write_text("one")
    done = []
    run(config, out, engine=runs.counted(done))
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


def test_other_versions_of_libraries_never_stand_in_one_run(runs, faults, tmp_path, version):
    out, config = tmp_path / "r", faults.config()
    version("9.1.0")
    runs.begin(config, out)
    version("9.2.0")
    said = runs.refused(config, out)
    assert "2 of its 6 shards, first fake_seed=0_prompt=00000, were not made with" in said
    assert "torch (9.1 then, 9.2 now)" in said
    version("9.1.7+cu130")  # a patch is no other version
    done = []
    run(config, out, engine=runs.counted(done))
    assert len(done) == 4
    version("9.2.0")
    run(config, out, engine=runs.counted(done))  # nothing is left to do: its rows are of one version
    assert len(done) == 4
    run(config, out, engine=runs.counted(done), redo=True)
    assert len(done) == 10
    assert {about["surroundings"]["packages"]["torch"] for about in abouts(out)} == {"9.2"}


@pytest.mark.parametrize("complete", [False, True])
def test_rows_by_another_version_of_this_package_are_refused(runs, faults, tmp_path, monkeypatch, complete):
    out, config = tmp_path / "r", faults.config()
    run(config, out) if complete else runs.begin(config, out)
    monkeypatch.setattr(identity, "RESULTS", identity.RESULTS + 1)
    assert (
        f"the results of this package ({identity.RESULTS - 1} then, {identity.RESULTS} now)"
        in runs.refused(config, out)
    )


def test_another_number_of_threads_is_refused_until_it_is_set(runs, faults, tmp_path):
    out = tmp_path / "r"
    runs.begin(faults.config(threads=1), out)
    assert "the number of threads (1 then, 2 now)" in runs.refused(faults.config(threads=2), out)
    run(faults.config(threads=1), out)


def test_shards_of_earlier_versions_are_refused_and_made_again(runs, faults, tmp_path):
    out, config = tmp_path / "r", faults.config()
    runs.begin(config, out)
    for file in (out / "shards").rglob("*.parquet"):
        rows = pd.read_parquet(file)
        with vhsbench.harness.sweep.run.RunStore(out, config.model_dump(mode="json")) as store:
            store.write_shard(file.parent.name, file.stem, rows)
    assert "is by an earlier version of this package, which did not keep what its rows" in runs.refused(
        config, out
    )
    done = []
    run(config, out, engine=runs.counted(done), redo=True)
    assert len(done) == 6


def test_what_no_row_depends_on_may_change(runs, faults, tmp_path):
    out = tmp_path / "r"
    runs.begin(faults.config(), out)
    free = {"name": "other", "bootstrap": 9, "tolerance": 0.2, "budgets_ms": [5.0], "overlap": True}
    done = []
    run(faults.config(**free), out, engine=runs.counted(done))
    assert len(done) == 4
    assert {k: runs.info(out)["config"][k] for k in free} == free
    run(faults.config(bootstrap=11), out, engine=runs.counted(done))  # nor does a finished run mind
    assert len(done) == 4
    assert runs.info(out)["config"]["bootstrap"] == 11
    assert load_run(out).info["status"] == "complete"


def test_a_larger_gallery_makes_only_the_pictures_that_are_missing(runs, faults, tmp_path):
    out, done = tmp_path / "r", []
    whole = faults.tables(run(faults.config(gallery_prompts=24), tmp_path / "whole"))
    run(faults.config(gallery_prompts=2), out)
    first = {f.name for f in out.rglob("*.png")}
    run(faults.config(gallery_prompts=24), out, engine=runs.counted(done))
    assert len(first) == 6
    assert 0 < len(done) <= 3  # of the first seed, whose pictures are kept
    assert faults.tables(out) == whole


def test_the_settings_that_decide_rows_may_not_change(runs, faults, tmp_path):
    out = tmp_path / "r"
    runs.begin(faults.config(), out)
    assert "differs in 'pool'" in runs.refused(faults.config(pool=2), out)
    assert "differs in 'generators.0.options.faults'" in runs.refused(
        faults.config().model_copy(update={"generators": [entry(faults)]}), out
    )
    done = []
    run(faults.config(pool=2), out, engine=runs.counted(done), redo=True)
    assert len(done) == 6
    fresh = run(faults.config(pool=2), tmp_path / "fresh")
    assert runs.info(out)["digests"] == runs.info(fresh)["digests"]


def entry(faults):
    """The fake generator with another option."""
    return faults.config().generators[0].model_copy(update={"options": {"faults": "elsewhere"}})


def test_each_opening_leaves_its_environment(runs, faults, tmp_path):
    out = tmp_path / "r"
    runs.begin(faults.config(), out)
    run(faults.config(), out)
    run(faults.config(), out)  # looks, and makes nothing
    found = runs.info(out)["environments"]
    assert len(found) == 2
    assert all(e["opened"] and e["packages"]["torch"] for e in found)
