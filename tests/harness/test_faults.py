"""Faults of the local engine: nothing lost, nothing counted twice, and said."""

from __future__ import annotations

import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import time

import pandas as pd
import pytest

from vhsbench.harness.stats.curves import accuracy_curves
from vhsbench.harness.store import folder as storage
from vhsbench.harness.store.folder import StorageError
from vhsbench.harness.sweep import disk
from vhsbench.harness.sweep.run import local, run
from vhsbench.harness.sweep.status import status
from vhsbench.verifiers.checks import ScoresError


def incidents(out):
    return pd.read_parquet(out / "incidents.parquet")


def run_json(out):
    return json.loads((out / "run.json").read_text())


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """Where the undisturbed run is kept."""
    return tmp_path_factory.mktemp("undisturbed") / "run"


@pytest.fixture
def undisturbed(faults, tmp_path, once):
    """The tables of a run without a fault, which is done once; a copy is in "undisturbed"."""
    if not once.exists():
        run(faults.config(), once)
    return faults.tables(shutil.copytree(once, tmp_path / "undisturbed"))


def test_shards_in_any_order_give_the_same_tables(faults, tmp_path, undisturbed):
    def backwards(config, prompts, todo):
        return local(config, prompts, list(reversed(todo)))

    assert faults.tables(run(faults.config(), tmp_path / "b", engine=backwards)) == undisturbed
    assert len(undisturbed) == 2 + 2 * 3  # two tables; two prompts' pictures, three candidates each


def test_models_are_loaded_once_each(faults, tmp_path):
    run(faults.config(names=("fake", "fake-other")), tmp_path / "r")
    assert [name.rsplit("-", 2)[0] for name in faults.loads()] == ["fake", "fake-other"]


@pytest.mark.parametrize("overlap", [False, True])
def test_out_of_memory_halves_the_batch_and_is_recorded(faults, tmp_path, undisturbed, overlap):
    faults.set(oom=3)
    out = run(faults.config(overlap=overlap), tmp_path / "r")
    assert faults.tables(out) == undisturbed
    found = incidents(out)
    assert set(found["kind"]) == {"out_of_memory"}
    assert sorted(found["batch"].unique()) == [6, 12]
    assert found["reason"].str.contains("CUDA out of memory").all()
    assert run_json(out)["failed_prompts"] == []


def test_a_poison_prompt_is_left_out_and_said(faults, tmp_path, undisturbed):
    prompts = [p["prompt"] for p in _prompts(tmp_path / "undisturbed")]
    victim = 11
    faults.set(poison=prompts[victim])
    out = tmp_path / "r"
    process = faults.drive(out)
    said = process.communicate()[1]
    assert process.returncode == 1, said
    assert (
        f"2 pool(s) of candidates failed and are left out of every table, first: fake, seed 0, prompt {victim}"
        in said
    )
    found = incidents(out)
    assert found[["seed", "prompt_id", "kind"]].to_numpy().tolist() == [[0, 11, "failed"], [1, 11, "failed"]]
    for table in ("candidates", "scores"):
        whole = pd.read_parquet(tmp_path / "undisturbed" / f"{table}.parquet")
        rest = whole[whole["prompt_id"] != victim].reset_index(drop=True)
        pd.testing.assert_frame_equal(pd.read_parquet(out / f"{table}.parquet"), rest)
    shown = status(out)
    assert (shown["state"], len(shown["failed_prompts"])) == ("complete", 2)
    assert shown["failed_prompts"][0]["reason"].startswith("RuntimeError: no words for")
    curves = accuracy_curves(
        pd.read_parquet(out / "candidates.parquet"), pd.read_parquet(out / "scores.parquet")
    )
    assert set(curves.loc[curves["tag"] == "overall", "n_prompts"]) == {23}


def _prompts(out):
    return [json.loads(line) for line in (out / "prompts.jsonl").read_text().splitlines()]


def test_a_fault_of_every_prompt_is_no_prompts_fault(faults, tmp_path):
    faults.set(poison="a")
    with pytest.raises(RuntimeError, match="no words for 'a'"):
        run(faults.config(), tmp_path / "r")
    assert status(tmp_path / "r")["state"] == "stopped"
    faults.set()
    run(faults.config(), tmp_path / "r")
    assert status(tmp_path / "r")["state"] == "complete"


def test_a_shard_damaged_between_two_sessions_is_redone(faults, tmp_path, undisturbed):
    def half(config, prompts, todo):
        yield from local(config, prompts, todo[:4])
        raise KeyboardInterrupt

    out = tmp_path / "r"
    with pytest.raises(KeyboardInterrupt):
        run(faults.config(), out, engine=half)
    for table, number in (("candidates", 0), ("scores", 1), ("incidents", 2)):
        file = sorted((out / "shards" / table).glob("*.parquet"))[number]
        file.write_bytes(file.read_bytes()[:-5])
    done = []
    run(faults.config(), out, lambda what, d, of: done.append((d, of)))
    assert done[0] == (1, 6)
    assert faults.tables(out) == undisturbed
    assert len(run_json(out)["damaged_shards_redone"]) == 3


@pytest.mark.parametrize("kind", ["tmpfs", "injected"])
def test_a_full_disk_is_one_sentence_and_resumes(faults, tmp_path, undisturbed, monkeypatch, kind):
    monkeypatch.setattr(disk, "_IMAGE_MB", 0.0)  # else it is refused before it begins
    out = tmp_path / "disk"
    if kind == "tmpfs":
        out.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=120k", "none", out], capture_output=True
        )
        if mounted.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
        try:
            with pytest.raises(StorageError, match="is full; make room and run the same command to resume"):
                run(faults.config(), out)
            assert not list(out.rglob("*.tmp"))
            subprocess.run(["mount", "-o", "remount,size=4m", out], check=True)
            run(faults.config(), out)
            assert faults.tables(out) == undisturbed
        finally:
            subprocess.run(["umount", out], check=True)
        return
    real, left = storage.write_atomic, [20]

    def write(file, data):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device", str(file))
        real(file, data)

    monkeypatch.setattr(storage, "write_atomic", write)
    with pytest.raises(StorageError, match="is full; make room and run the same command to resume"):
        run(faults.config(), out)
    left[0] = 10**6
    run(faults.config(), out)
    assert faults.tables(out) == undisturbed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_says_how_to_resume_and_status_shows_it(faults, tmp_path, undisturbed, number):
    out = tmp_path / "r"
    faults.set(slow=0.2)
    process = faults.drive(out, overlap=number == signal.SIGINT)
    while not len(list((out / "shards/candidates").glob("[!.]*.parquet"))) > 1:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    shown = status(out)
    assert (shown["state"], shown["pid"]) == ("running", process.pid)
    os.kill(process.pid, number)
    said = process.communicate()[1]
    assert process.returncode == 128 + number
    assert said.startswith("stopped; nothing that was finished is lost: resume with `vhsbench ")
    assert "Traceback" not in said
    shown = status(out)
    assert shown["state"] == "stopped"
    (phase,) = shown["phases"]
    assert 1 <= phase["done"] < phase["of"] == 6
    assert phase["per_minute"] > 0
    assert phase["left_s"] > 0
    faults.set()
    run(faults.config(overlap=number == signal.SIGINT), out)
    assert faults.tables(out) == undisturbed


@pytest.fixture
def odd_scores(faults, monkeypatch):
    """Has the fake verifier give its candidates of one prompt, from the second on, a value as score."""
    fakes = importlib.import_module("vhsbench_fakes")
    original = fakes.FakeVerifier.score

    def spoil(prompt, value):
        def score(self, prompts, features):
            found = original(self, prompts, features)
            rows = [i for i, p in enumerate(prompts) if p == prompt][1:]
            found.score[rows] = value
            return found

        monkeypatch.setattr(fakes.FakeVerifier, "score", score)

    return spoil


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_costs_its_prompt_alone(
    faults, tmp_path, undisturbed, odd_scores, value, overlap
):
    text = _prompts(tmp_path / "undisturbed")[11]["prompt"]
    odd_scores(text, value)
    out = run(faults.config(overlap=overlap), tmp_path / "r")
    reasons = [row["reason"] for row in run_json(out)["failed_prompts"]]
    assert reasons == [
        f"ScoresError: verifier 'fake-verifier' gave candidate 1 of prompt 11 ('{text}'), seed {seed}, "
        f"by generator 'fake' the score {value:g}; a score is a finite number"
        for seed in (0, 1)
    ]
    without(tmp_path, out, 11)


@pytest.mark.parametrize("overlap", [False, True])
def test_latents_that_are_no_numbers_cost_their_prompt_alone(faults, tmp_path, undisturbed, overlap):
    text = _prompts(tmp_path / "undisturbed")[11]["prompt"]
    faults.set(nan=text)
    out = run(faults.config(overlap=overlap), tmp_path / "r")
    reasons = [row["reason"] for row in run_json(out)["failed_prompts"]]
    assert [r.partition(" are NaN")[0] for r in reasons] == [
        f"CandidateError: the latents of candidate 0 of prompt 11 ('{text}'), seed {seed}, by generator 'fake'"
        for seed in (0, 1)
    ]
    without(tmp_path, out, 11)


def test_a_verifier_that_answers_in_another_form_is_no_prompts_fault(faults, tmp_path, monkeypatch):
    fakes = importlib.import_module("vhsbench_fakes")
    monkeypatch.setattr(fakes.FakeVerifier, "score", lambda self, prompts, features: features)
    with pytest.raises(ScoresError, match="verifier 'fake-verifier' gave NoneType as 'p_yes' of 3 candidate"):
        run(faults.config(), tmp_path / "r")


def without(tmp_path, out, victim):
    """The tables are those of the undisturbed run, less one prompt's rows."""
    for table in ("candidates", "scores"):
        whole = pd.read_parquet(tmp_path / "undisturbed" / f"{table}.parquet")
        rest = whole[whole["prompt_id"] != victim].reset_index(drop=True)
        pd.testing.assert_frame_equal(pd.read_parquet(out / f"{table}.parquet"), rest)
