"""A run's log: a line for everything that happened, and never the reason why a run fails."""

from __future__ import annotations

import errno
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vhsbench.harness.sweep.run
from vhsbench.harness.store.folder import Folder
from vhsbench.harness.sweep.run import load_prompts, run
from vhsbench.harness.sweep.run_log import NAME, run_log

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (INFO|WARNING|ERROR) (.+)")


def log(out):
    """The log's lines: level and message."""
    found = [LINE.fullmatch(line) for line in (out / NAME).read_text(encoding="utf-8").splitlines()]
    assert all(found)
    return [(line[1], line[2]) for line in found]


def test_a_run_that_is_stopped_and_resumed_appends_to_its_log(runs, faults, tmp_path):
    out = tmp_path / "r"
    runs.begin(faults.config(), out)
    first = log(out)
    assert first[0][0] == "INFO"
    assert first[0][1].startswith("0 of 6 shards and the costs of 0 of 2 pipelines are there; vhsbench ")
    assert first[1:] == [
        ("INFO", "candidates of fake: 0 of 6"),
        ("INFO", "candidates of fake: 2 of 6"),
        ("ERROR", "stopped: KeyboardInterrupt"),
    ]
    run(faults.config(), out)
    added = log(out)[len(first) :]
    assert log(out)[: len(first)] == first
    assert added[0][1].startswith("2 of 6 shards")
    assert [re.sub(r", in [\d:]+", ", in a moment", said) for _, said in added[1:]] == [
        "candidates of fake: 2 of 6",
        "candidates of fake: 6 of 6, in a moment",
        "complete",
    ]
    before = (out / NAME).read_bytes()
    run(faults.config(), out)  # whole: nothing happens to it
    assert (out / NAME).read_bytes() == before


def test_failed_prompts_and_damage_are_in_the_log(runs, faults, tmp_path):
    out = tmp_path / "r"
    runs.begin(faults.config(), out)
    damaged = out / "shards/scores/fake_seed=0_prompt=00000.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    texts = [prompt["prompt"] for prompt in load_prompts(faults.config())]
    faults.set(poison=texts[20])
    run(faults.config(), out)
    warned = [said for level, said in log(out) if level == "WARNING"]
    assert "scores/fake_seed=0_prompt=00000 was damaged: removed, to be done again" in warned
    assert [said.split(", batch")[0] for said in warned if said.startswith("incident")] == [
        f"incident: generator fake, steps 1, seed {seed}, prompt_id {prompt_id}, kind failed"
        for seed in (0, 1)
        for prompt_id, text in enumerate(texts)
        if text == texts[20] and not (seed == 0 and 8 <= prompt_id < 16)  # which the first run did
    ]


def test_a_log_that_cannot_be_written_fails_no_run(faults, tmp_path, monkeypatch, capfd):
    whole = faults.tables(run(faults.config(), tmp_path / "whole"))
    opened = Path.open

    def full(self, *how, **options):
        if self.name == NAME:
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, *how, **options)

    monkeypatch.setattr(Path, "open", full)
    assert faults.tables(run(faults.config(), tmp_path / "full")) == whole
    assert not (tmp_path / "full" / NAME).exists()
    assert "No space" not in capfd.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no named pipes in folders")
def test_a_pipe_for_a_log_is_not_waited_for(faults, tmp_path):
    out = tmp_path / "r"
    out.mkdir()
    os.mkfifo(out / NAME)
    run(faults.config(), out)
    assert (out / NAME).is_fifo()


def test_a_run_at_a_url_has_no_log():
    folder = Folder("memory://run-log")
    with run_log(folder, "begins"):
        logging.getLogger("vhsbench.harness").warning("seen")
    assert folder.files() == []


def test_an_event_is_one_line_whatever_it_says(tmp_path):
    with pytest.raises(ValueError, match="red"), run_log(Folder(tmp_path), "a\nb \x85"):
        raise ValueError("\x1b[31mred")
    assert [said.split(";")[0] for _, said in log(tmp_path)] == [
        r"a\nb \x85",
        r"stopped: ValueError: \x1b[31mred",
    ]


def test_warnings_are_still_on_stderr_and_events_are_not(tmp_path):
    code = (
        "import logging, sys\n"
        "from vhsbench.harness.store.folder import Folder\n"
        "from vhsbench.harness.sweep.run_log import EVENTS, run_log\n"
        "EVENTS.warning('no one asked')\n"
        "with run_log(Folder(sys.argv[1]), 'begins'):\n"
        "    logging.getLogger('vhsbench.harness.store').warning('a warning')\n"
        "    EVENTS.warning('an event')\n"
        "logging.getLogger('vhsbench.harness.store').warning('after it')\n"
    )
    root = Path(vhsbench.harness.sweep.run.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.stderr.splitlines() == ["a warning", "after it"]
    assert log(tmp_path)[1:] == [("WARNING", "a warning"), ("WARNING", "an event"), ("INFO", "complete")]
