from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pandas as pd
import pytest

from harness.store import RunStore, StoreError, load_run

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
           "repeat": 0, "wall_ms": 1.0, "tflop": None, "peak_vram_gb": None, "peak_rss_gb": None,
           "device": "cpu"}  # fmt: skip
    with RunStore(tmp_path, CONFIG) as store:
        store.write_shard("costs", "a", pd.DataFrame([row]))
        finish(store)
    assert load_run(tmp_path).costs["tflop"].isna().all()


@pytest.mark.parametrize("damage", [b"", b"not parquet", None])
def test_a_damaged_shard_is_seen_and_redone(tmp_path, damage):
    with RunStore(tmp_path, CONFIG) as store:
        store.write_shard("candidates", "a", candidates(0))
        assert store.has("candidates", "a")
        file = tmp_path / "shards/candidates/a.parquet"
        file.write_bytes(file.read_bytes()[:-9] if damage is None else damage)
        assert not store.has("candidates", "a")
        assert store.damaged == ["candidates/a"]
        store.write_shard("candidates", "a", candidates(0))
        assert store.has("candidates", "a")


def test_another_configuration_is_refused_by_its_key(tmp_path):
    RunStore(tmp_path, CONFIG).__exit__(None, None, None)
    with pytest.raises(StoreError, match="differs in 'pool'"):
        RunStore(tmp_path, {"name": "t", "pool": 3})


def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path):
    code = f"""
        from pathlib import Path
        from harness.store import RunStore
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


def test_killed_while_writing_and_resumed(tmp_path):
    """A writer killed at any moment leaves whole shards or none; what is whole is not written again."""
    code = f"""
        import sys
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from pathlib import Path
        from harness.store import RunStore
        from test_store import candidates
        with RunStore(Path({str(tmp_path)!r}), {CONFIG!r}) as store:
            for i in range(100000):
                store.write_shard("candidates", f"{{i:06d}}", candidates(i))
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    folder = tmp_path / "shards/candidates"
    while not folder.exists() or len(list(folder.glob("0*.parquet"))) < 20:
        assert writer.poll() is None
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    with RunStore(tmp_path, CONFIG) as store:
        names = sorted(f.stem for f in folder.glob("0*.parquet"))
        assert all(store.has("candidates", name) for name in names)
        assert store.damaged == []
        finish(store)
    assert len(load_run(tmp_path).candidates) == 2 * len(names)


@pytest.mark.parametrize("key", ["../x", "a/b", ".hidden", ""])
def test_a_key_that_would_leave_the_directory_is_refused(tmp_path, key):
    with RunStore(tmp_path, CONFIG) as store, pytest.raises(StoreError, match="no name for a shard"):
        store.write_shard("candidates", key, candidates(0))


def test_reading_what_is_no_finished_run(tmp_path):
    with pytest.raises(StoreError, match=r"has no run\.json"):
        load_run(tmp_path)
    with RunStore(tmp_path, CONFIG) as store:
        with pytest.raises(StoreError, match="not finished"):
            load_run(tmp_path)
        finish(store)
    (tmp_path / "scores.parquet").unlink()
    with pytest.raises(StoreError, match=r"no scores\.parquet"):
        load_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(StoreError, match="damaged"):
        load_run(tmp_path)


def test_run_json_keeps_the_configuration(tmp_path):
    with RunStore(tmp_path, CONFIG):
        assert json.loads((tmp_path / "run.json").read_text())["config"] == CONFIG
