"""Coverage-guided fuzzing of the readers of files from others, with atheris.

    python tests/harness/fuzz.py READER|all [-max_total_time=60] [CORPUS]     (options are libFuzzer's)

"all" takes the reader from the first byte. It fills the folder CORPUS with sound files if that is new or empty.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
with atheris.instrument_imports(include=["vhsbench.harness", "vhsbench.generators", "vhsbench.verifiers"]):
    MODULE = runpy.run_path(str(Path(__file__).with_name("untrusted_readers.py")))
READERS, seeds = MODULE["READERS"], MODULE["seeds"]


def every(data: bytes) -> None:
    if data:
        list(READERS.values())[data[0] % len(READERS)](data[1:])


def begin(corpus: Path) -> None:
    corpus.mkdir(exist_ok=True)
    if not any(corpus.iterdir()):
        files = seeds()
        for reader, name in enumerate(READERS):
            for number, data in enumerate(files.get(name, [])):
                (corpus / f"{name}-{number}").write_bytes(bytes([reader]) + data)


if __name__ == "__main__":
    name = sys.argv.pop(1)
    if name == "all" and len(sys.argv) > 1 and not sys.argv[-1].startswith("-"):
        begin(Path(sys.argv[-1]))
    atheris.Setup(sys.argv, every if name == "all" else READERS[name])
    atheris.Fuzz()
