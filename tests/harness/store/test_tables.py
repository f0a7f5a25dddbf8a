from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vhsbench.harness.store.folder import Folder
from vhsbench.harness.store.tables import SCHEMAS, RunStore, StoreError, load_run, read_info

CONFIG = {"name": "t", "pool": 2}


def candidates(prompt_id: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "generator": "g", "steps": 1, "prompt_id": prompt_id, "seed": 0, "index": [1, 0],
            "tag": "colors", "correct": [True, False], "reason": ["", "expected"],
        }
    )  # fmt: skip


def finish(store: RunStore) -> None:
    store.write_prompts([{"prompt": "p"}])
    store.consolidate()
    store.update(status="complete")


def test_what_is_written_is_read_back_in_one_order(tmp_path):
    with RunStore(tmp_path, CONFIG) as store:
        store.write_shard("candidates", "b", candidates(1))
        store.write_shard("candidates", "a", candidates(0))
        finish(store)
    run = load_run(tmp_path)
    assert run.candidates[["prompt_id", "index"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert run.scores.empty
    assert run.prompts == [{"prompt": "p"}]


def test_unknown_costs_stay_empty(tmp_path):
    row = {"generator": "g", "steps": 1, "verifier": "", "stage": "encode", "n": 1, "batch": 1,
           "repeat": 0, "wall_ms": 1.0, "event_ms": None, "phases_percent": None, "tflop": None,
           "moved_gb": None, "peak_vram_gb": None, "peak_reserved_gb": None, "nvml_gb": None,
           "peak_rss_gb": None, "energy_j": None, "device": "cpu", "variant": "", "status": "ok", "note": ""}  # fmt: skip
    with RunStore(tmp_path, CONFIG) as store:
        store.write_shard("costs", "a", pd.DataFrame([row]))
        finish(store)
    assert load_run(tmp_path).costs["tflop"].isna().all()


@pytest.mark.parametrize("damage", [b"", b"not parquet", None])
def test_a_damaged_shard_is_seen_and_redone(tmp_path, damage, caplog):
    with RunStore(tmp_path, CONFIG) as store:
        store.write_shard("candidates", "a", candidates(0))
        assert store.has("candidates", "a")
        file = tmp_path / "shards/candidates/a.parquet"
        file.write_bytes(file.read_bytes()[:-9] if damage is None else damage)
        assert not store.has("candidates", "a")
        assert store.damaged == ["candidates/a"]
        assert [r.getMessage() for r in caplog.records] == [f"{file} is damaged; removed, to be done again."]
        store.write_shard("candidates", "a", candidates(0))
        assert store.has("candidates", "a")


def test_another_configuration_is_refused_by_its_key(tmp_path):
    RunStore(tmp_path, CONFIG).__exit__(None, None, None)
    with pytest.raises(StoreError, match="differs in 'pool'"):
        RunStore(tmp_path, {"name": "t", "pool": 3})
    with pytest.raises(StoreError, match="holds a run already"):
        RunStore(tmp_path, CONFIG, resume=False)
    RunStore(tmp_path, CONFIG).__exit__(None, None, None)


def test_a_configuration_is_compared_as_it_is_stored(tmp_path):
    """JSON has no tuples: they are no difference, on a new run or a resumed one."""
    for _ in range(2):
        RunStore(tmp_path, {"ns": (1, 2)}).__exit__(None, None, None)


def test_a_file_is_no_run_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be a run directory"):
        RunStore(tmp_path / "file", CONFIG)


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    code = f"""
        from pathlib import Path
        from vhsbench.harness.store.tables import RunStore
        import time
        store = RunStore(Path({str(tmp_path)!r}), {CONFIG!r})
        print("held", flush=True)
        time.sleep(60)
    """
    holder = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(StoreError, match=f"in use by another process .pid {holder.pid}."):
        RunStore(tmp_path, CONFIG)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with RunStore(tmp_path, CONFIG) as store:
        assert store.info["status"] == "running"


def sweep(store: RunStore, shards: int) -> list[int]:
    """Write what is not there yet; returns what was written."""
    todo = [i for i in range(shards) if not store.has("candidates", f"{i:06d}")]
    for i in todo:
        store.write_shard("candidates", f"{i:06d}", candidates(i))
    return todo


def test_killed_while_writing_and_resumed(tmp_path):
    """A writer killed at any moment leaves whole shards or none; the rest gives the same tables."""
    whole, killed, shards = tmp_path / "whole", tmp_path / "killed", 2000
    code = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from pathlib import Path
        from vhsbench.harness.store.tables import RunStore
        from test_tables import sweep
        with RunStore(Path({str(killed)!r}), {CONFIG!r}) as store:
            sweep(store, {shards})
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    folder = killed / "shards/candidates"
    while not folder.exists() or len(list(folder.glob("0*.parquet"))) < 20:
        assert writer.poll() is None
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    before = {f.stem: f.stat().st_mtime_ns for f in folder.glob("0*.parquet")}
    shards = len(before) + 20
    with RunStore(killed, CONFIG) as store:
        assert sweep(store, shards) == list(range(len(before), shards))
        assert store.damaged == []
        finish(store)
    after = {f.stem: f.stat().st_mtime_ns for f in folder.glob("0*.parquet")}
    assert before.items() <= after.items()
    with RunStore(whole, CONFIG) as store:
        sweep(store, shards)
        finish(store)
    for table in ("candidates", "scores"):
        name = f"{table}.parquet"
        assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_a_shard_damaged_after_its_check_is_named_not_read(tmp_path):
    with RunStore(tmp_path, CONFIG) as store:
        store.write_shard("candidates", "a", candidates(0))
        file = tmp_path / "shards/candidates/a.parquet"
        file.write_bytes(file.read_bytes()[:-9])
        with pytest.raises(StoreError, match=r"damaged shard.*first candidates/a.*run it again"):
            store.consolidate()
        assert not store.has("candidates", "a")


def test_rows_given_twice_are_refused(tmp_path):
    with RunStore(tmp_path, CONFIG) as store:
        store.write_shard("candidates", "a", candidates(0))
        store.write_shard("candidates", "b", candidates(0))
        with pytest.raises(StoreError, match=r"row of candidates appears twice.*'prompt_id': 0"):
            store.consolidate()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (candidates(0).drop(columns="tag"), "lack or add the column 'tag'"),
        (candidates(0).assign(score=1.0), "lack or add the column 'score'"),
        (candidates(0).assign(correct=[True, None]), "no value in 'correct'"),
        (candidates(0).assign(seed=0.5), "wrong types"),
    ],
)
def test_rows_that_do_not_fit_the_schema_are_refused(tmp_path, rows, message):
    with RunStore(tmp_path, CONFIG) as store:
        with pytest.raises(StoreError, match=message):
            store.write_shard("candidates", "a", rows)
        assert not store.has("candidates", "a")


def test_shards_whose_columns_may_be_empty_are_still_read(tmp_path):
    """Runs of before the schemas said which columns may be empty."""
    schema = pa.schema([field.with_nullable(True) for field in SCHEMAS["candidates"]])
    with RunStore(tmp_path, CONFIG) as store:
        finish(store)
    rows = pa.Table.from_pandas(candidates(0), schema, preserve_index=False)
    pq.write_table(rows, tmp_path / "candidates.parquet")
    assert load_run(tmp_path).candidates["correct"].tolist() == [True, False]


@pytest.mark.parametrize("key", ["../x", "a/b", ".hidden", ""])
def test_a_key_that_would_leave_the_directory_is_refused(tmp_path, key):
    with RunStore(tmp_path, CONFIG) as store, pytest.raises(StoreError, match="not a valid name for a shard"):
        store.write_shard("candidates", key, candidates(0))


def test_reading_what_is_no_finished_run(tmp_path):
    with pytest.raises(StoreError, match=r"has no run\.json"):
        load_run(tmp_path)
    with RunStore(tmp_path, CONFIG) as store:
        with pytest.raises(StoreError, match="not finished"):
            load_run(tmp_path)
        finish(store)
    (tmp_path / "prompts.jsonl").unlink()
    with pytest.raises(StoreError, match=r"no prompts\.jsonl"):
        load_run(tmp_path)
    pd.DataFrame({"generator": ["g"]}).to_parquet(tmp_path / "scores.parquet")
    with pytest.raises(StoreError, match="is no scores table of this version"):
        load_run(tmp_path)
    (tmp_path / "scores.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match=r"scores\.parquet is damaged"):
        load_run(tmp_path)
    (tmp_path / "scores.parquet").unlink()
    with pytest.raises(StoreError, match=r"no scores\.parquet"):
        load_run(tmp_path)
    for text, said in (("{", "not JSON"), ("[]", "is damaged"), ("{}", "is damaged")):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(StoreError, match=rf"run\.json:? {said}"):
            load_run(tmp_path)


@pytest.mark.parametrize("place", ["above/run", "memory://refused/run"])
def test_a_new_run_that_is_refused_leaves_nothing(tmp_path, monkeypatch, place):
    """Not even the folder above it; one that has begun stays, and so does one that was there."""
    monkeypatch.chdir(tmp_path)

    def fail(begin):
        with RunStore(place, CONFIG) as store:
            if begin:
                store.update(status="running")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail(begin=False)
    assert list(tmp_path.iterdir()) == []
    assert not Folder(place).exists("run.json")
    for begin in (True, False):
        with pytest.raises(OSError, match="full"):
            fail(begin)
        assert read_info(Folder(place)) == {"status": "running", "config": CONFIG}


@pytest.mark.parametrize("place", ["above/run", "memory://refused-later/run"])
@pytest.mark.parametrize("written", ["", "shard", "picture"])
def test_a_new_run_that_is_refused_before_its_first_shard_leaves_nothing(
    tmp_path, monkeypatch, place, written
):
    monkeypatch.chdir(tmp_path)
    place = f"{place}-{written}"

    def refused():
        with RunStore(place, CONFIG, beside=["log"]) as store:
            store.folder.write("log", b"")
            store.write_prompts([{"prompt": "a star"}])
            store.update(status="running")
            if written == "shard":
                store.write_shard("candidates", "000000", candidates(0))
            elif written == "picture":
                store.write_picture("images/a.png", b"")
            raise StoreError("no such judge.")

    with pytest.raises(StoreError, match="no such judge"):
        refused()
    there = [name for name in ("run.json", "prompts.jsonl", "log") if Folder(place).exists(name)]
    assert there == (["run.json", "prompts.jsonl", "log"] if written else [])
    assert (tmp_path / "above").exists() == (bool(written) and "memory" not in place)


def test_run_json_keeps_the_configuration(tmp_path):
    with RunStore(tmp_path, CONFIG):
        assert json.loads((tmp_path / "run.json").read_text())["config"] == CONFIG
