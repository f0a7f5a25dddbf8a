"""Texts of nano's world, from which its language model learns: questions about descriptions, and descriptions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vhsbench.generators.nano.teacher import objects_of, partner_cells
from vhsbench.generators.nano.world import (
    CELL,
    COLORS,
    GRID,
    NUMBERS,
    PLACES,
    RADIUS,
    SHAPES,
    Item,
    Scene,
    caption,
    cell_center,
)
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.geneval.prompts import Metadata
from vhsbench.harness.geneval.rules import colored, evaluate
from vhsbench.harness.geneval.shapes import ShapeDetection
from vhsbench.verifiers.nano.models import TEMPLATE
from vhsbench.verifiers.training.llm import Dialogue
from vhsbench.verifiers.training.recipe import CAPTION_TEMPLATE

_RADIUS = sum(RADIUS) / 2
_MOST = len(NUMBERS) - 1  # objects of a scene that a caption can count


class TextStream:
    """Endless dialogues: half ask yes or no of a described scene, half ask to describe what loose words say."""

    def __init__(self, prompts: Sequence[Metadata], seed: int, batch: int) -> None:
        self._tasks = [[p for p in prompts if p["tag"] == tag] for tag in TAGS]
        self._seed, self._batch = seed, batch

    def __call__(self, step: int) -> list[Dialogue]:
        """Return the dialogues of a step, always the same for a step and never those of another."""
        rng = np.random.default_rng((self._seed, 4, step))
        return [self._asked(rng, i) if i % 2 else self._described(rng) for i in range(self._batch)]

    def _asked(self, rng: np.random.Generator, i: int) -> Dialogue:
        task = self._tasks[i // 2 % len(self._tasks)]
        prompt = task[int(rng.integers(len(task)))]
        scene = scene_about(rng, prompt)
        said = caption(scene) if rng.random() < 0.5 else loose(rng, scene)
        asked = TEMPLATE.replace("<image>", said).replace("{prompt}", prompt["prompt"])
        return asked, "yes" if holds(prompt, scene) else "no"

    def _described(self, rng: np.random.Generator) -> Dialogue:
        cells = rng.choice(GRID * GRID, int(rng.integers(1, _MOST + 1)), replace=False)
        kinds = [SHAPES[int(rng.integers(len(SHAPES)))] for _ in cells]
        if rng.random() < 0.5:  # often some are alike, so that there is something to count
            kinds = [kinds[int(rng.integers(2)) % len(kinds)] for _ in kinds]
        scene = tuple(_item(k, _color(rng), int(c)) for k, c in zip(kinds, cells, strict=True))
        return CAPTION_TEMPLATE.replace("<image>", loose(rng, scene)), caption(scene)


def loose(rng: np.random.Generator, scene: Scene) -> str:
    """Name a scene's objects with their places, some of them twice, in any order and uncounted, as image tokens do."""
    parts = [f"a {i.color} {i.shape} at {_place(i)}" for i in scene]
    parts += [p for p in parts if rng.random() < 0.4]
    return " ".join(parts[i] for i in rng.permutation(len(parts))) or "nothing"


def scene_about(rng: np.random.Generator, prompt: Metadata) -> Scene:
    """Draw a scene that a prompt could be asked of: what it says, or that with mistakes, and sometimes more."""
    objects, relation = objects_of(prompt)
    found = [[kind, color or _color(rng)] for kind, color in objects]
    cells = [int(c) for c in rng.permutation(GRID * GRID)]
    if relation is not None:
        partners = partner_cells(relation)
        first = next(c for c in cells if partners[c] is not None)
        second = int(partners[first] or 0)
        cells = [first, second, *(c for c in cells if c not in (first, second))]
    for _ in range(int(rng.integers(4))):  # about half of the answers are no
        _spoil(rng, found, cells)
    for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.3 else 0):
        found.append([SHAPES[int(rng.integers(len(SHAPES)))], _color(rng)])
    return tuple(_item(k, c, cell) for (k, c), cell in zip(found[:_MOST], cells, strict=False))


def _spoil(rng: np.random.Generator, found: list[list[str]], cells: list[int]) -> None:
    """Make one mistake, in place; some mistakes leave a prompt true."""
    if not found:
        return
    which, one = int(rng.integers(6)), int(rng.integers(len(found)))
    if which == 0:
        del found[one]
    elif which == 1:
        found.append([found[one][0], _color(rng)])
    elif which == 2:
        found[one][1] = _color(rng)
    elif which == 3:
        found[one][0] = SHAPES[int(rng.integers(len(SHAPES)))]
    elif which == 4 and len(found) > 1:  # the colours change places
        found[0][1], found[1][1] = found[1][1], found[0][1]
    else:  # another arrangement
        cells[:] = [int(c) for c in rng.permutation(GRID * GRID)]
        if rng.random() < 0.5:
            found.reverse()


def holds(prompt: Metadata, scene: Scene) -> bool:
    """Tell whether GenEval's rules call a scene right for a prompt."""
    seen: dict[str, list[ShapeDetection]] = {}
    for i in scene:
        box = (i.x - i.radius, i.y - i.radius, i.x + i.radius, i.y + i.radius)
        seen.setdefault(i.shape, []).append(ShapeDetection(box, 1.0, None, i.color))
    colors = [[d.color for d in rows if isinstance(d, ShapeDetection)] for rows in colored(prompt, seen)]
    return bool(evaluate(prompt, seen, colors).correct)


def _item(kind: str, color: str, cell: int) -> Item:
    return Item(kind, color, *cell_center(cell), _RADIUS)


def _place(item: Item) -> str:
    return PLACES[int(item.y // CELL) * GRID + int(item.x // CELL)]


def _color(rng: np.random.Generator) -> str:
    return COLORS[int(rng.integers(len(COLORS)))]
