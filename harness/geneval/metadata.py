"""GenEval's metadata of a prompt: its vocabulary, and the one check that it passes wherever it enters."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.limits import LONGEST_PROMPT
from vhsbench.harness.common.registry import nearest
from vhsbench.harness.common.tasks import TAGS

COLORS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
)  # fmt: skip
RELATIONS = ("left of", "right of", "above", "below")
MAX_OBJECTS = 16  # of a class in an image that are counted

MOST_CLAUSES = 100
_OPTIONAL = ("exclude", "variant", "color", "position")

Check = Callable[[Any, str], None]  # (value, key); raises MetadataError without the file


class MetadataError(VhsbenchError):
    """Metadata by which no image can be judged; the message is one sentence for a user."""


def check(metadata: Any, where: str) -> dict[str, Any]:
    """Return the metadata unchanged if GenEval's rules can judge an image by it.

    `where` names its file and line. Raises MetadataError, which adds the key and what would be right.
    """
    try:
        _object(metadata, "", _METADATA)
        _check_together(metadata)
    except MetadataError as error:
        raise MetadataError(f"{where}{error}") from None
    return dict(metadata)


def check_clauses(metadata: Mapping[str, Any], where: str) -> None:
    """Check only the include and exclude clauses; both lists may be empty. Raises MetadataError."""
    clauses = {key: metadata[key] for key in ("include", "exclude") if key in metadata}
    try:
        _object(clauses, "", {"include": _clauses(_INCLUDED), "exclude": _clauses(_EXCLUDED)})
        _check_together(clauses)
    except MetadataError as error:
        raise MetadataError(f"{where}{error}") from None


def _object(value: Any, key: str, fields: Mapping[str, Check]) -> None:
    if not isinstance(value, Mapping):
        raise _wrong(key, f"an object with {', '.join(fields)} is needed, not {_short(value)}")
    for name in value:
        if name not in fields:
            raise _wrong(_below(key, name), f"unknown key; {nearest(str(name), list(fields))}")
    for name, check_value in fields.items():
        if name in value:
            check_value(value[name], _below(key, name))
        elif name not in _OPTIONAL:
            raise _wrong(_below(key, name), "is required")


def _check_together(metadata: Mapping[str, Any]) -> None:
    """Check the clauses against each other: positions point back, and some image can be right."""
    wanted: dict[str, int] = {}
    for i, clause in enumerate(metadata["include"]):
        if "position" in clause and clause["position"][1] >= i:
            raise _wrong(
                f"include.{i}.position",
                f"points to clause {clause['position'][1]}, but a position is relative to an earlier "
                "clause, counted from 0",
            )
        wanted[clause["class"]] = max(clause["count"], wanted.get(clause["class"], 0))
    for i, clause in enumerate(metadata.get("exclude", ())):
        if clause["count"] <= wanted.get(clause["class"], 0):
            raise _wrong(
                f"exclude.{i}.count",
                f"{clause['count']} of '{clause['class']}' are too many, but include asks for "
                f"{wanted[clause['class']]}, so no image could be right",
            )


def _clauses(fields: Mapping[str, Check], at_least: int = 0) -> Check:
    def check_value(value: Any, key: str) -> None:
        if not isinstance(value, (list, tuple)) or not at_least <= len(value) <= MOST_CLAUSES:
            number = f"{at_least} to {MOST_CLAUSES} clauses" if at_least else "clauses"
            raise _wrong(key, f"a list of {number} is needed, not {_short(value)}")
        for i, clause in enumerate(value):
            _object(clause, _below(key, i), fields)

    return check_value


def _one_of(what: str, known: Sequence[str]) -> Check:
    def check_value(value: Any, key: str) -> None:
        if not isinstance(value, str):
            raise _wrong(key, f"a {what} is one of {', '.join(known)}, not {_short(value)}")
        if value not in known:
            raise _wrong(key, f"unknown {what} {_short(value)}; {nearest(value, list(known))}")

    return check_value


def _whole(lowest: int, highest: int) -> Check:
    def check_value(value: Any, key: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise _wrong(key, f"a whole number from {lowest} to {highest} is needed, not {_short(value)}")

    return check_value


def _text(value: Any, key: str) -> None:
    if not isinstance(value, str) or not value.strip():
        raise _wrong(key, f"a text is needed, not {_short(value)}")
    if len(value) > LONGEST_PROMPT:
        raise _wrong(key, f"at most {LONGEST_PROMPT:,} characters are allowed, not {len(value):,}")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise _wrong(key, f"{_short(value)} has half of a character (a lone surrogate)")


def _position(value: Any, key: str) -> None:
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise _wrong(
            key, f'[relation, index of an earlier clause] is needed, as ["left of", 0], not {_short(value)}'
        )
    _one_of("relation", RELATIONS)(value[0], f"{key}.0")
    _whole(0, MOST_CLAUSES - 1)(value[1], f"{key}.1")


_EXCLUDED: dict[str, Check] = {"class": _text, "count": _whole(1, MAX_OBJECTS)}
_INCLUDED = {**_EXCLUDED, "color": _one_of("colour", COLORS), "position": _position}
_METADATA: dict[str, Check] = {
    "tag": _one_of("tag", TAGS),
    "include": _clauses(_INCLUDED, at_least=1),
    "exclude": _clauses(_EXCLUDED),
    "prompt": _text,
    "variant": _whole(0, 10**9),
}


def _wrong(key: str, sentence: str) -> MetadataError:
    place = f", key {_short(key)}" if key else ""
    return MetadataError(f"{place}: {sentence}{'' if sentence.endswith(('?', '.')) else '.'}")


def _below(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def _short(value: Any) -> str:
    """Show a value as one short line, however large or deep it is."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = 60
    return shown.repr(value)
