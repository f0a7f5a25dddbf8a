"""Coverage-guided fuzzing of the readers of files from others, with atheris.

    python tests/harness/fuzz.py READER|all [-max_total_time=60] [CORPUS...]     (options are libFuzzer's)

"all" takes the reader from the first byte.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
with atheris.instrument_imports(include=["harness", "generators", "verifiers"]):
    READERS = runpy.run_path(str(Path(__file__).with_name("untrusted_readers.py")))["READERS"]


def every(data: bytes) -> None:
    if data:
        list(READERS.values())[data[0] % len(READERS)](data[1:])


if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, every if name == "all" else READERS[name])
    atheris.Fuzz()
