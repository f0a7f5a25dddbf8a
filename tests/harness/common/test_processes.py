"""Processes that end with another."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from vhsbench.harness.common.processes import TIED_TO, find, here, lives


def gone(pid, seconds=60.0):
    """Whether a process ends in time; one that nobody has asked for its status counts as ended."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def program_that_starts(method, kernel=True):
    """A program whose child, by multiprocessing's `method`, prints its id and sleeps."""
    return (
        "import multiprocessing, os, sys, time\n"
        "from vhsbench.harness.common import processes\n"
        "def child():\n"
        f"    if not {kernel}: processes.kill_with_parent = lambda: None\n"
        "    processes.end_with_parent()\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        f"    multiprocessing.get_context('{method}').Process(target=child).start()\n"
        "    time.sleep(600)\n"
    )


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "thread"])
@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_a_child_ends_with_the_process_that_started_it(tmp_path, method, kernel):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot start processes by {method}")
    file = tmp_path / "program.py"
    file.write_text(program_that_starts(method, kernel))
    program = subprocess.Popen([sys.executable, str(file)], stdout=subprocess.PIPE, text=True)
    child = int(program.stdout.readline())
    time.sleep(0.2)
    assert psutil.pid_exists(child)
    program.send_signal(signal.SIGKILL)
    program.wait()
    assert gone(child)


@pytest.mark.parametrize("kernel", [True, False], ids=["kernel", "thread"])
def test_a_program_run_by_another_ends_with_it(tmp_path, kernel):
    (tmp_path / "sleeper.py").write_text(
        "import os, sys, time\nprint(os.getpid(), sys.argv[1:], __name__, flush=True)\ntime.sleep(600)\n"
    )
    off = (
        ""
        if kernel
        else "from vhsbench.harness.common import processes; processes.kill_with_parent = lambda: None;"
    )
    code = (
        "import subprocess, sys\n"
        "subprocess.run([sys.executable, '-c', \"import os, sys, runpy; sys.argv = ['tied', str(os.getppid()), 'sleeper', 'a', '-b'];"
        f"{off} runpy.run_module('vhsbench.harness.common.tied', run_name='__main__')\"])\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )  # fmt: skip
    said = program.stdout.readline()
    assert said.split(maxsplit=1)[1] == "['a', '-b'] __main__\n"
    program.send_signal(signal.SIGKILL)
    program.wait()
    assert gone(int(said.split()[0]))


def test_a_process_is_found_where_it_is_alone():
    assert find(here()) == psutil.Process()
    assert find(("another machine", os.getpid())) is None
    ended = subprocess.Popen(["true"])
    ended.wait()
    assert find((here()[0], ended.pid)) is None


def test_a_process_that_has_ended_lives_no_more_though_nobody_asked():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    found = find((here()[0], process.pid))
    assert lives(found)
    process.kill()
    until = time.monotonic() + 60
    while lives(found):
        assert time.monotonic() < until
    process.wait()
    assert not lives(found)


def test_a_command_that_is_tied_to_one_that_has_ended_ends(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    command = [sys.executable, "-m", "vhsbench.harness.cli", "--version"]
    done = subprocess.run(
        command, env=os.environ | {TIED_TO: str(ended.pid)}, cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    done = subprocess.run(
        command, env=os.environ | {TIED_TO: str(os.getpid())}, cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0
