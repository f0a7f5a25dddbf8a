"""Derive GenEval metadata from a prompt's text: its task from a tagger, its clauses from the words (A.1)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval import prompts as geneval
from vhsbench.harness.geneval.prompts import Metadata
from vhsbench.harness.geneval.rules import COLORS

_NUMBERS = {word: i for i, word in enumerate(geneval.NUMBERS)}
_RELATIONS = {
    "left of": r"left (?:side )?of",
    "right of": r"right (?:side )?of",
    "above": r"above|over|on top of",
    "below": r"below|under|underneath|beneath",
}
_IRREGULAR = {
    "person": ("people",), "knife": ("knives",), "mouse": ("mice",), "sheep": ("sheep",), "skis": ("skis",),
    "scissors": ("scissors", "pairs of scissors"),
}  # fmt: skip


class TagError(VhsbenchError):
    """A prompt whose words do not fit its tag; the message says why."""


@dataclass(frozen=True)
class Mention:
    """An object in a text, with the number and the colour directly before it."""

    name: str
    count: int
    color: str | None
    start: int
    end: int


def read_tag(answer: str) -> str:
    """Read the tag in a tagger's answer. Raises TagError for anything but one tag."""
    tag = answer.strip().strip("\"'`*.").strip().lower()
    if tag not in TAGS:
        raise TagError(f"the tagger's answer '{answer.strip()[:60]}' is no tag")
    return tag


def derive(prompt: str, tag: str, classes: Sequence[str]) -> Metadata:
    """Derive the include and exclude lists that GenEval's own prompts of this tag have; the text is not changed.

    `classes` are the detector's. Raises TagError if the text does not mention what the tag asks for, or
    asks for more than GenEval would check, such as a colour in a two_object prompt.
    """
    found = mentions(prompt, classes)
    make = _MAKERS[tag]
    wanted = 2 if tag in ("two_object", "position", "color_attr") else 1
    if len(found) != wanted:
        names = ", ".join(m.name for m in found) or "none"
        raise TagError(f"{tag} asks for {wanted} known object(s), found {len(found)} ({names})")
    if wanted == 2 and found[0].name == found[1].name:
        raise TagError(f"{tag} asks for two different objects, found {found[0].name} twice")
    if tag != "counting" and any(m.count > 1 for m in found):
        raise TagError(f"{tag} asks for one of each object, found a number")
    coloured = tag in ("colors", "color_attr")
    if any((m.color is not None) != coloured for m in found):
        raise TagError(f"{tag} asks for {'a colour of each object' if coloured else 'no colour'}")
    return {**make(prompt, found), "prompt": prompt}


def mentions(prompt: str, classes: Sequence[str]) -> list[Mention]:
    """Find the objects of `classes` in a text, in order; of two that overlap, the longer name counts."""
    forms = {form: name for name in classes for form in (*plurals(name), name)}
    names = "|".join(re.escape(f) for f in sorted(forms, key=len, reverse=True))
    pattern = re.compile(
        rf"(?:\b(?P<count>an?|the|{'|'.join(_NUMBERS)}|\d+)\s+)?"
        rf"(?:\b(?P<color>{'|'.join(COLORS)})(?:[- ]colou?red)?\s+)?\b(?P<name>{names})\b",
        re.IGNORECASE,
    )
    found = []
    for match in pattern.finditer(prompt):
        number = (match["count"] or "").lower()
        count = int(number) if number.isdigit() else _NUMBERS.get(number, 1)
        color = match["color"].lower() if match["color"] else None
        name = forms[match["name"].lower()]
        found.append(Mention(name, count, color, match.start(), match.end()))
    return found


def plurals(name: str) -> tuple[str, ...]:
    """Return GenEval's plural of a class name, then the English one."""
    english = name + ("es" if name.endswith(("s", "x", "ch", "sh")) else "s")
    last = name.rsplit(" ", 1)[-1]
    others = tuple(name.removesuffix(last) + form for form in _IRREGULAR.get(last, ()))
    return tuple(dict.fromkeys((geneval.plural(name), english, *others)))


def tag_all(
    prompts: Sequence[str], answers: Sequence[str], classes: Sequence[str]
) -> tuple[list[Metadata], list[tuple[str, str]]]:
    """Return the metadata of the prompts for which it can be derived, and (prompt, reason) of the others."""
    kept: list[Metadata] = []
    refused: list[tuple[str, str]] = []
    for prompt, answer in zip(prompts, answers, strict=True):
        try:
            kept.append(derive(prompt, read_tag(answer), classes))
        except TagError as error:
            refused.append((prompt, str(error)))
    return kept, refused


def _counting(prompt: str, found: Sequence[Mention]) -> Metadata:
    if not 2 <= found[0].count < len(_NUMBERS):
        raise TagError(f"counting asks for a number from 2 to {len(_NUMBERS) - 1}, found {found[0].count}")
    return geneval.counting(found[0].name, found[0].count)


def _position(prompt: str, found: Sequence[Mention]) -> Metadata:
    between = prompt[found[0].end : found[1].start].lower()
    relations = [name for name, words in _RELATIONS.items() if re.search(rf"\b(?:{words})\b", between)]
    if len(relations) != 1:
        raise TagError("position asks for one relation between its two objects")
    return geneval.position(found[0].name, found[1].name, relations[0])


_MAKERS: dict[str, Callable[[str, Sequence[Mention]], Metadata]] = {
    "single_object": lambda _, m: geneval.single(m[0].name),
    "two_object": lambda _, m: geneval.two(m[0].name, m[1].name),
    "counting": _counting,
    "colors": lambda _, m: geneval.color(m[0].name, str(m[0].color)),
    "position": _position,
    "color_attr": lambda _, m: geneval.color_attr(m[0].name, str(m[0].color), m[1].name, str(m[1].color)),
}
