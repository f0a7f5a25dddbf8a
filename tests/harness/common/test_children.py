"""Processes that answer this one."""

from __future__ import annotations

import subprocess
import sys

STOPPED_IN_A_START = """
import multiprocessing.forkserver as forkserver
import os
import signal
import time

from vhsbench.harness.common.children import Child, asked


def answer(pipe):
    for what in asked(pipe):
        pipe.send(what + 1)


def stop(number, frame):
    raise KeyboardInterrupt


if __name__ == "__main__":
    first = Child(answer)
    first.send(1)
    print(first.receive())
    connect = forkserver.connect_to_new_process

    def stopped_between(descriptors):  # the process runs, and has not been told what
        made = connect(descriptors)
        os.kill(os.getpid(), signal.SIGTERM)
        return made

    signal.signal(signal.SIGTERM, stop)
    forkserver.connect_to_new_process = stopped_between
    try:
        Child(answer)
    except KeyboardInterrupt:
        print("stopped", signal.getsignal(signal.SIGTERM) is stop)
    first.close()
    time.sleep(0.5)  # for what an orphan has to say
"""


def test_a_stop_while_a_process_starts_waits_until_it_has_and_prints_no_traceback(tmp_path):
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED_IN_A_START)
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("2\nstopped True\n", "", 0)
