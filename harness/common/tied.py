"""Runs another module as a program that ends with its parent: python -m vhsbench.harness.common.tied PARENT MODULE ARGUMENTS..."""

from __future__ import annotations

import os
import runpy
import sys

from vhsbench.harness.common.processes import TIED_TO, end_with_parent

if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    os.environ[TIED_TO] = str(os.getpid())
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
