"""Run commands side by side, each given as one argument; fail if one failed.

What a command printed is shown when it has ended: all of it if it failed, else the last lines, its summary.
"""

import shlex
import subprocess
import sys

SUMMARY = 5  # lines

started = [
    subprocess.Popen(shlex.split(line), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in sys.argv[1:]
]
for line, process in zip(sys.argv[1:], started, strict=True):
    said = process.communicate()[0].splitlines()
    shown = said if process.returncode else said[-SUMMARY:]
    print(*shown, f"{line}: exit code {process.returncode}", sep="\n", flush=True)
sys.exit(any(process.returncode for process in started))
