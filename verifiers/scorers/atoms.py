"""The questions that a prompt's text asks: GenEval's kind of prompts by their objects, any other as a whole."""

from __future__ import annotations

import re

from vhsbench.generators.nano.world import OPENINGS
from vhsbench.harness.common.questions import Question

_COLORS = "black|blue|brown|gray|green|orange|pink|purple|red|white|yellow|cyan|magenta"
_NUMBERS = "two|three|four|five|six|seven|eight|nine|ten"
_NAME = r"(?!.*\b(?:and|or|in|on|of|with|without)\b)[a-z][a-z ]*"  # more than a name is no object alone
_THING = re.compile(rf"(?:an?|(?P<count>{_NUMBERS})) (?:(?P<color>{_COLORS}) )?(?P<name>{_NAME})")
_PLACES = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}
_BETWEEN = re.compile(rf"\s+(and|{'|'.join(_PLACES)})\s+(?=(?:an?|{_NUMBERS}) )")
_START = re.compile(rf"an? (?:{'|'.join(OPENINGS)}) of ", re.IGNORECASE)


def atoms(prompt: str) -> list[Question]:
    """Return a question for every object, its number, its colour and its place; answered "yes" by a right image.

    A prompt that does not list objects in GenEval's way is one question.
    """
    text = " ".join(prompt.strip().rstrip(".").split())
    if (start := _START.match(text)) is None:
        return [_whole(prompt)]
    parts = _BETWEEN.split(text[start.end() :].lower())
    things = [_THING.fullmatch(part) for part in parts[::2]]
    asked: list[str] = []
    for thing in things:
        if thing is None:
            return [_whole(prompt)]
        asked += _of_thing(thing)
    for i, word in enumerate(parts[1::2]):
        if word in _PLACES:
            asked.append(f"Is {_the(parts[2 * i])} {_PLACES[word]} {_the(parts[2 * i + 2])}?")
    return [Question(question) for question in dict.fromkeys(asked)]


def _of_thing(thing: re.Match[str]) -> list[str]:
    count, color, name = thing["count"], thing["color"], thing["name"]
    if count:
        said = [f"Are there exactly {count} {name} in the image?"]
        return said + ([f"Are the {name} {color}?"] if color else [])
    said = [f"Is there {_article(name)} {name} in the image?"]
    return said + ([f"Is there {_article(color)} {color} {name} in the image?"] if color else [])


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _the(part: str) -> str:
    return f"the {part.split(' ', 1)[1]}"


def _whole(prompt: str) -> Question:
    return Question(f'Does this image show "{prompt}"?')
