"""Check the types of the installed package, from a folder where mypy does not find the checkout's facade first."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

config = Path(__file__).resolve().parents[1] / "pyproject.toml"
with tempfile.TemporaryDirectory() as elsewhere:
    os.chdir(elsewhere)
    done = subprocess.run([sys.executable, "-m", "mypy", "--config-file", str(config)], check=False)
    os.chdir(config.parent)
sys.exit(done.returncode)
