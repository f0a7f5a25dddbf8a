"""Runs command lines one after another in this process, each under limits: python attacked.py < CASES.json

Cases are [name, folder, arguments]. Prints a line of JSON for each: its name, exit code, stderr, and what ended it
if that was no exit ("time" or a traceback).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

MEMORY = 2 << 30  # bytes beyond what the imports take
CPU_S, WALL_S = 20, 90  # of a case; what waits takes no CPU time


class OutOfTime(BaseException):
    pass


def stop(*_: object) -> None:
    raise OutOfTime


def one(folder: str, arguments: list[str]) -> dict[str, Any]:
    from vhsbench.harness.cli import main

    os.chdir(folder)
    sys.argv = ["vhsbench", *arguments]
    errors, ended, code = io.StringIO(), "", 0
    signal.setitimer(signal.ITIMER_PROF, CPU_S)
    signal.setitimer(signal.ITIMER_REAL, WALL_S)
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            main()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    except OutOfTime:
        ended = "time"
    except BaseException:
        ended = traceback.format_exc()[-1500:]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"code": code, "stderr": errors.getvalue(), "ended": ended}


def limit_memory() -> None:
    import torch  # noqa: F401 - what commands import is not counted

    import vhsbench.verifiers.loading  # noqa: F401

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    size = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


if __name__ == "__main__":
    cases = json.load(sys.stdin)
    out = sys.stdout
    signal.signal(signal.SIGPROF, stop)
    signal.signal(signal.SIGALRM, stop)
    limit_memory()
    for name, folder, arguments in cases:
        print(json.dumps({"name": name} | one(folder, arguments)), file=out, flush=True)
