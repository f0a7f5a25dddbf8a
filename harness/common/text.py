"""Read foreign text, JSON and JSON lines: one rule for encodings, line ends, blank lines and valid JSON.

* UTF-8, with or without a byte order mark.
* Lines end at line feeds alone, or at CR LF; U+2028, form feeds and the like stay inside a line.
* Blank lines are skipped, and counted in the line numbers of errors.
* JSON as RFC 8259 has it: no NaN or Infinity, no number beyond floats, no key twice in an object, no half of a
  surrogate pair, and at most DEPTH levels.

`read_*` read a file; `decode`, `lines` and `parse_*` do the same with data from elsewhere, which `name` names in
errors. All raise ReadError.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NoReturn

from vhsbench.harness.common.files import SMALL, ReadError, read_bytes

DEPTH = 100


def read_text(file: Path, limit: int = SMALL) -> str:
    """Read a file's text; line ends are not changed."""
    return decode(read_bytes(file, limit), str(file))


def read_lines(file: Path, limit: int = SMALL) -> list[tuple[int, str]]:
    """Read the lines that are not blank, as (line number from 1, line)."""
    return lines(read_text(file, limit))


def read_json(file: Path, limit: int = SMALL, infinities: bool = False) -> Any:
    """Read a JSON file; `infinities`: accept them as Python writes them."""
    return parse_json(read_text(file, limit), str(file), infinities)


def read_json_object(file: Path, limit: int = SMALL) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    return _as_object(read_json(file, limit), str(file))


def read_json_lines(file: Path, limit: int = SMALL) -> list[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of the lines that are not blank."""
    return parse_json_lines(read_text(file, limit), str(file))


def decode(data: bytes, name: str) -> str:
    """Decode UTF-8, without its byte order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.start + len(data) - len(error.object)  # the codec may have cut the mark off
        line = data.count(b"\n", 0, at) + 1
        raise ReadError(f"{name}, line {line}: not text in UTF-8 (byte 0x{data[at]:02x}).") from None


def lines(text: str) -> list[tuple[int, str]]:
    """Split text into the lines that are not blank, as (line number from 1, line without its end)."""
    split = enumerate(text.split("\n"), start=1)
    return [(number, line.removesuffix("\r")) for number, line in split if line.strip()]


def parse_json(text: str, name: str, infinities: bool = False) -> Any:
    """Parse one JSON text; `infinities` as in `read_json`."""
    try:
        value = json.loads(
            text,
            parse_int=_integer,
            parse_float=_finite,
            parse_constant=_infinite if infinities else _refuse_constant,
            object_pairs_hook=_distinct,
        )
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if "\n" in text else ""
        raise ReadError(f"{name}{line}: not JSON: {error.msg}, at column {error.colno}.") from None
    except RecursionError:
        raise ReadError(f"{name}: nested more than {DEPTH} deep.") from None
    except _Refused as error:
        raise ReadError(f"{name}: not JSON: {error}.") from None
    if _deeper(value, text):
        raise ReadError(f"{name}: nested more than {DEPTH} deep.")
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = ascii(error.object[error.start]).strip("'")
            raise ReadError(f"{name}: {half} is half of a surrogate pair, which is no character.") from None
    return value


def parse_json_lines(text: str, name: str) -> list[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of the lines that are not blank."""
    found = []
    for number, line in lines(text):
        where = f"{name}, line {number}"
        found.append((number, _as_object(parse_json(line, where), where)))
    return found


def _as_object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ReadError(f"{name}: not a JSON object.")
    return value


class _Refused(Exception):
    """Text that Python's parser takes for JSON, and we do not."""


def _integer(text: str) -> int:
    _finite(text)  # int() itself refuses thousands of digits
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _Refused(f"the number {text[:20]}{'...' * (len(text) > 20)} is too large")
    return number


def _infinite(name: str) -> float:
    return float(name) if name != "NaN" else _refuse_constant(name)


def _refuse_constant(name: str) -> NoReturn:
    raise _Refused(f"{name} is no number in JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Refused(f"the key {key[:80]!r} is given twice in one object")
        found[key] = value
    return found


def _deeper(value: Any, text: str) -> bool:
    if text.count("[") + text.count("{") <= DEPTH:
        return False
    level = [value]
    for _ in range(DEPTH):
        inside = [v.values() if isinstance(v, dict) else v for v in level if isinstance(v, (dict, list))]
        level = [v for values in inside for v in values]
    return any(isinstance(v, (dict, list)) for v in level)
