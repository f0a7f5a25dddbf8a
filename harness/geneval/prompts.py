"""GenEval's prompts: the official 553 regenerated from their seed, and the same for other classes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.common.text import read_lines
from vhsbench.harness.geneval.rules import COLORS, RELATIONS

Metadata = dict[str, Any]

OFFICIAL_SEED = 43
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class PromptError(VhsbenchError):
    """Classes from which no prompts can be made; the message is one sentence for a user."""


def coco_classes() -> tuple[str, ...]:
    """Return the 80 class names of GenEval's detector, in its order."""
    text = files("vhsbench.harness.geneval").joinpath("object_names.txt").read_text(encoding="utf-8")
    return tuple(text.split("\n")[:-1] if text.endswith("\n") else text.split("\n"))


def official() -> list[Metadata]:
    """Return the 553 prompts of the benchmark, byte for byte as published."""
    return sample(coco_classes(), OFFICIAL_SEED)


def to_json_lines(prompts: Sequence[Metadata]) -> str:
    return "".join(json.dumps(p) + "\n" for p in prompts)


def sample(classes: Sequence[str], seed: int, n: int = 100) -> list[Metadata]:
    """Sample prompts as GenEval does: each class once, then n draws per task; exact duplicates are dropped."""
    rng = np.random.default_rng(seed)
    k = len(classes)
    # no prompt asks for a person's colour: indices are drawn from the other classes
    person = classes.index("person") if "person" in classes else None

    def colorable(draw: int) -> str:
        return classes[draw] if person is None else classes[(draw + 1 + person) % k]

    coloured = k if person is None else k - 1
    prompts = [single(classes[i]) for i in rng.choice(k, size=k, replace=False)]
    for _ in range(n):
        a, b = rng.choice(k, size=2, replace=False)
        prompts.append(two(classes[a], classes[b]))
    for _ in range(n):
        i = rng.choice(k)
        prompts.append(counting(classes[i], int(rng.integers(2, 4, endpoint=True))))
    for _ in range(n):
        i = rng.choice(coloured)
        prompts.append(color(colorable(i), COLORS[rng.choice(len(COLORS))]))
    for _ in range(n):
        a, b = rng.choice(k, size=2, replace=False)
        prompts.append(position(classes[a], classes[b], RELATIONS[rng.choice(len(RELATIONS))]))
    for _ in range(n):
        a, b = rng.choice(coloured, size=2, replace=False)
        c, d = rng.choice(len(COLORS), size=2, replace=False)
        prompts.append(color_attr(colorable(a), COLORS[c], colorable(b), COLORS[d]))
    return list({json.dumps(p): p for p in prompts}.values())


def training(classes: Sequence[str], seed: int, n: int = 100, variants: int = 20) -> list[Metadata]:
    """Make prompts for training a verifier, as in the paper's A.1: `variants` lines per prompt, one image each.

    They come from the same sampler with another seed, without what the official prompts ask, in any
    order of its objects. (With COCO's classes that removes every single object.)
    """
    held = {picture(p) for p in official()}
    kept = [p for p in sample(classes, seed, n) if picture(p) not in held]
    return [{**p, "variant": k} for p in kept for k in range(variants)]


def read_classes(file: Path) -> tuple[str, ...]:
    """Read class names, one per line. Raises PromptError."""
    with read_errors_as(PromptError):
        classes = tuple(line.strip() for _, line in read_lines(file))
    if len(classes) < 2 or len(set(classes) - {"person"}) < 2 or len(set(classes)) < len(classes):
        raise PromptError(
            f"{file}: needs at least two distinct class names other than 'person', one a line, none twice."
        )
    return classes


def single(name: str) -> Metadata:
    return _metadata("single_object", [_clause(name)], _with_article(name))


def two(a: str, b: str) -> Metadata:
    text = f"{_with_article(a)} and {_with_article(b)}"
    return _metadata("two_object", [_clause(a), _clause(b)], text)


def counting(name: str, count: int) -> Metadata:
    return {
        "tag": "counting",
        "include": [_clause(name, count)],
        "exclude": [_clause(name, count + 1)],
        "prompt": f"a photo of {NUMBERS[count]} {plural(name)}",
    }


def plural(name: str) -> str:
    """Form GenEval's plural: a name ending in s takes "es", else "s"."""
    return name + ("es" if name.endswith("s") else "s")


def color(name: str, shade: str) -> Metadata:
    return _metadata("colors", [_clause(name, color=shade)], _with_article(f"{shade} {name}"))


def position(name: str, target: str, relation: str) -> Metadata:
    """Make the prompt in which `name` stands in `relation` to `target`; the target's clause comes first."""
    include = [_clause(target), _clause(name, position=[relation, 0])]
    return _metadata("position", include, f"{_with_article(name)} {relation} {_with_article(target)}")


def color_attr(a: str, shade_a: str, b: str, shade_b: str) -> Metadata:
    include = [_clause(a, color=shade_a), _clause(b, color=shade_b)]
    text = f"{_with_article(f'{shade_a} {a}')} and {_with_article(f'{shade_b} {b}')}"
    return _metadata("color_attr", include, text)


def coloured_count(tag: str, name: str, shade: str, count: int) -> Metadata:
    """Make a prompt of the task `tag`, which GenEval does not have, for so many objects of one colour."""
    return {
        "tag": tag,
        "include": [_clause(name, count, color=shade)],
        "exclude": [_clause(name, count + 1)],
        "prompt": f"a photo of {NUMBERS[count]} {shade} {plural(name)}",
    }


def chain(tag: str, objects: Sequence[tuple[str, str]], relations: Sequence[str]) -> Metadata:
    """Make a prompt of the task `tag`, which GenEval does not have, for (name, shade) each in a relation to the next."""
    clauses = [
        _clause(name, color=shade) for name, shade in reversed(objects)
    ]  # a target's clause comes first
    for place, relation in enumerate(reversed(relations), start=1):
        clauses[place]["position"] = [relation, place - 1]
    texts = [_with_article(f"{shade} {name}") for name, shade in objects]
    said = " ".join(part for pair in zip(texts, [*relations, ""], strict=True) for part in pair)
    return _metadata(tag, clauses, said.rstrip())


def every(classes: Sequence[str]) -> list[Metadata]:
    """Return all distinct prompts of the six tasks for a small set of classes."""
    pairs = list(itertools.permutations(classes, 2))
    shades = list(itertools.permutations(COLORS, 2))
    return [
        *(single(c) for c in classes),
        *(two(a, b) for a, b in pairs),
        *(counting(c, k) for c in classes for k in (2, 3, 4)),
        *(color(c, s) for c in classes for s in COLORS),
        *(position(a, b, r) for a, b in pairs for r in RELATIONS),
        *(color_attr(a, s, b, t) for a, b in pairs for s, t in shades),
    ]


def split(
    classes: Sequence[str], per_task: int, seed: int
) -> tuple[list[Metadata], list[Metadata], list[Metadata]]:
    """Split all prompts for a small set of classes into disjoint (train, validation, evaluation).

    At most half of a task's prompts are held out for evaluation, and a tenth of the rest for
    validation. Prompts that ask for the same picture ("a and b", "b and a") fall on the same side.
    """
    rng = np.random.default_rng(seed)
    train, validation, evaluation = [], [], []
    prompts = every(classes)
    for tag in TAGS:
        groups: dict[str, list[Metadata]] = {}
        for p in prompts:
            if p["tag"] == tag:
                groups.setdefault(picture(p), []).append(p)
        shuffled = [list(groups.values())[i] for i in rng.permutation(len(groups))]
        held = min(per_task, len(shuffled) // 2)
        kept = max(1, (len(shuffled) - held) // 10)
        evaluation += [g[int(rng.integers(len(g)))] for g in shuffled[:held]]
        validation += [g[int(rng.integers(len(g)))] for g in shuffled[held : held + kept]]
        train += [p for g in shuffled[held + kept :] for p in g]
    return train, validation, evaluation


def picture(prompt: Metadata) -> str:
    """Return what a prompt asks to see: the same for "a and b" and "b and a"."""
    clauses = prompt["include"]
    return json.dumps(clauses if prompt["tag"] == "position" else sorted(clauses, key=str))


def _metadata(tag: str, include: list[Metadata], text: str) -> Metadata:
    return {"tag": tag, "include": include, "prompt": f"a photo of {text}"}


def _clause(name: str, count: int = 1, **more: Any) -> Metadata:
    return {"class": name, "count": count, **more}


def _with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
