"""Tasks of prompts: GenEval's six, in the order of its tables, and those of other suites after them."""

from __future__ import annotations

from collections.abc import Iterable

TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def in_order(tags: Iterable[str]) -> list[str]:
    """Return each task of `tags` once: GenEval's in its order, others in the order in which they come."""
    known = list(dict.fromkeys(map(str, tags)))
    return [t for t in TAGS if t in known] + [t for t in known if t not in TAGS]


def columns(tags: Iterable[str]) -> list[str]:
    """Return the tasks that tables show: all six of GenEval where one of them is there, and others that are."""
    found = in_order(tags)
    return [*(TAGS if found and found[0] in TAGS else ()), *(t for t in found if t not in TAGS)]
