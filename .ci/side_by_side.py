"""Run commands side by side, each given as one argument; print what each said when it has ended, and fail if one failed."""

import shlex
import subprocess
import sys

started = [
    subprocess.Popen(shlex.split(line), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in sys.argv[1:]
]
for line, process in zip(sys.argv[1:], started, strict=True):
    said, _ = process.communicate()
    print(f"{said}\n{line}: exit code {process.returncode}", flush=True)
sys.exit(any(process.returncode for process in started))
