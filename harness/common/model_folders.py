"""Check folders of foreign models before a library opens them: kinds and sizes of files, and numbers in JSON."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vhsbench.harness.common.files import ReadError, check_regular
from vhsbench.harness.common.text import read_json

BYTES = 64 << 20  # of a configuration, tokenizer or template
_TEXT = (".json", ".jinja", ".txt", ".model")
_WEIGHTS = (".safetensors", ".bin")
# what libraries read as JSON, except long lists of tokens
_JSON = ("config.json", "model_index.json", "tokens_map.json", "added_tokens.json", "template.json")
# the limit of a number, by a word in the path of its key; the first match counts
_MOST = {
    r"layers|num_\w*blocks|depths?\b": 1024,  # objects are made one by one
    r"image_size|sample_size|resolution": 1 << 14,  # pixels, or cells of a latent, along a side
    r"timesteps": 1 << 20,
    r"size|dim|width|heads|channels|length|position|features|experts|factor": 1 << 24,
}


def check_files(folder: Path) -> None:
    """Refuse pipes, devices, files that are too large, and configurations with invalid JSON or absurd sizes.

    Raises ReadError with the file and the key.
    """
    for parent, _, names in os.walk(folder):
        for name in sorted(names):
            file = Path(parent, name)
            if file.suffix in (*_TEXT, *_WEIGHTS):
                check_regular(file)
            if file.suffix in _TEXT and (size := file.stat().st_size) > BYTES:
                raise ReadError(f"{file} has {size:,} bytes; at most {BYTES:,} are read.")
            if name.endswith(_JSON):
                said = read_json(file, infinities=True)  # as in the limits of a scheduler of diffusers
                if (
                    name.endswith("config.json") and name != "tokenizer_config.json"
                ):  # its longest text is 1e30
                    _check_numbers(said, file)


def _check_numbers(said: Any, file: Path) -> None:
    for path, number in _numbers(said, ()):
        key = ".".join(path)
        most = next((limit for words, limit in _MOST.items() if re.search(words, key)), None)
        if most is not None and not -1 <= number <= most:
            shown = f"{number:,}" if abs(number) < 1e15 else f"{number:.3g}"
            raise ReadError(f"{file}: '{key}' is {shown}; a model has from -1 to {most:,}.")


def _numbers(said: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yield every number, with the keys that lead to it; lists add none."""
    if isinstance(said, dict):
        for key, value in said.items():
            yield from _numbers(value, (*path, key))
    elif isinstance(said, list):
        for value in said:
            yield from _numbers(value, path)
    elif isinstance(said, (int, float)) and not isinstance(said, bool):
        yield path, said
