"""Files that one process holds: refused by name, let go with the process, and looked at without harm."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from filelock import lock_descriptor

from vhsbench.harness.common import locks
from vhsbench.harness.common.locks import HeldError, hold, is_held


def test_a_file_is_held_by_one_and_says_by_whom(tmp_path):
    file = tmp_path / "lock"
    file.write_text("a number of many digits 123456789")
    with hold(file):
        assert file.read_text() == str(os.getpid())
        with pytest.raises(HeldError) as other:
            hold(file)
        assert other.value.pid == str(os.getpid())
        assert file.read_text() == str(os.getpid())
    hold(file).close()


def test_a_killed_process_holds_nothing(tmp_path):
    file = tmp_path / "lock"
    code = "import sys, time; from pathlib import Path; from vhsbench.harness.common.locks import hold; "
    code += "held = hold(Path(sys.argv[1])); print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        assert is_held(file)
        with pytest.raises(HeldError, match=f"held by process {holder.pid}; wait for it"):
            hold(file)
        holder.send_signal(signal.SIGKILL)
    assert not is_held(file)
    hold(file).close()


def test_one_that_waits_gets_the_file_when_it_is_let_go(tmp_path):
    held, gone = hold(tmp_path / "lock"), threading.Event()
    threading.Timer(0.2, lambda: (gone.set(), held.close())).start()
    with hold(tmp_path / "lock", wait_s=60):
        assert gone.is_set()


def test_a_file_that_its_holder_removes_is_made_anew(tmp_path):
    """Else two could hold it: one the removed file, one the file that it then makes."""
    file = tmp_path / "lock"
    held = hold(file)
    threading.Timer(0.2, lambda: (file.unlink(), held.close())).start()
    with hold(file, wait_s=60) as mine:
        assert os.fstat(mine.fileno()).st_ino == file.stat().st_ino


def test_one_that_looks_refuses_none_that_starts(tmp_path):
    file = tmp_path / "lock"
    assert not is_held(file)
    hold(file).close()
    assert not is_held(file)
    looked = threading.Event()
    with open(f"{file}.gate") as gate, open(file) as looking:  # as is_held does, stopped halfway
        assert lock_descriptor(gate.fileno(), blocking=False)
        assert lock_descriptor(looking.fileno(), blocking=False)
        threading.Timer(0.3, lambda: (looked.set(), looking.close(), gate.close())).start()
        with hold(file):
            assert looked.is_set()
            assert is_held(file)
            with pytest.raises(HeldError):
                hold(file)
            assert is_held(file)


def test_many_that_look_refuse_none_that_starts_and_see_nobody_but_a_holder(tmp_path):
    file = tmp_path / "lock"
    hold(file).close()
    ended, seen = threading.Event(), []

    def look():
        while not ended.is_set():
            seen.append(is_held(file))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    while len(seen) < 200:
        time.sleep(0.01)
    alone = list(seen)
    try:
        for _ in range(20):
            hold(file).close()
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not any(alone)


def test_one_may_look_where_it_may_not_write(tmp_path, monkeypatch):
    def read_only(file, mode="r", **options):
        if mode != "r":
            raise PermissionError(file)
        return open(file, mode, **options)

    with hold(tmp_path / "lock"):
        monkeypatch.setattr(locks, "open", read_only, raising=False)
        assert is_held(tmp_path / "lock")
