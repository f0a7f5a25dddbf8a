"""Pictures that are known to show a prompt, or not to, by which a judge is tested before a run spends time on it.

Of nano's world they are rendered; of the real world they are drawn by code: simple objects, and noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vhsbench.generators.nano.world import COLORS, SHAPES, SIZE, plural
from vhsbench.harness.common.questions import Question
from vhsbench.harness.judges.protocol import Metadata

_DRAWN = 512  # pixels, side of a drawn picture


@dataclass(frozen=True)
class Pair:
    """A prompt, a picture that shows it, and one that does not."""

    prompt: Metadata
    right: Image.Image = field(repr=False)
    wrong: Image.Image = field(repr=False)


@cache
def nano_pairs() -> tuple[Pair, ...]:
    """Return pairs of each of GenEval's tasks in nano's world, and of objects against noise."""
    pairs = []
    for i, shape in enumerate(SHAPES):
        prompt, other = _one(shape), _one(SHAPES[(i + 3) % len(SHAPES)])
        pairs += [_rendered(i, prompt, other), Pair(prompt, _render(prompt, i), noise(SIZE, i))]
    for i in range(4):
        a, b, c = SHAPES[i], SHAPES[i + 4], SHAPES[(i + 2) % 4]
        one, two = COLORS[(3 * i) % len(COLORS)], COLORS[(3 * i + 4) % len(COLORS)]
        relation, opposite = (("left of", "right of"), ("above", "below"))[i % 2]
        pairs += [
            _rendered(i, _one(a, one), _one(a, two)),
            _rendered(i, _two("two_object", a, b), _two("two_object", a, c)),
            _rendered(i, _count(a, 2 + i % 2), _count(a, 3 - i % 2)),
            _rendered(
                i, _two("position", a, b, relation=relation), _two("position", a, b, relation=opposite)
            ),
            _rendered(i, _two("color_attr", a, b, (one, two)), _two("color_attr", a, b, (two, one))),
        ]
    return tuple(pairs)


@cache
def drawn_pairs() -> tuple[Pair, ...]:
    """Return pairs of simple objects of COCO: against another object, against noise, and in another colour."""
    names, pairs = list(_OBJECTS), []
    for i, name in enumerate(names):
        prompt, right = _one(name), _OBJECTS[name]()
        pairs += [Pair(prompt, right, _OBJECTS[names[i - 1]]()), Pair(prompt, right, noise(_DRAWN, i))]
    for name in ("umbrella", "clock"):
        for i, color in enumerate(tones := list(_TONES)):
            other = tones[(i + 2) % len(tones)]
            pairs.append(
                Pair(_one(name, color), _OBJECTS[name](_TONES[color]), _OBJECTS[name](_TONES[other]))
            )
    return tuple(pairs)


def noise(side: int, seed: int) -> Image.Image:
    """Return a picture of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def _rendered(seed: int, prompt: Metadata, other: Metadata) -> Pair:
    return Pair(prompt, _render(prompt, seed), _render(other, seed))


def _render(prompt: Metadata, seed: int) -> Image.Image:
    import torch  # slow, and needed only where a judge is tested

    from vhsbench.generators.nano.scenes import draw
    from vhsbench.generators.nano.teacher import LATENT_CHANNELS, LATENT_SIZE, Orders, scenes_of, scores

    noise = torch.randn(
        1, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE, generator=torch.Generator().manual_seed(seed)
    )
    picture = draw(scenes_of(Orders.of([prompt]), scores(noise)))[0]
    return Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy())


def _one(name: str, color: str = "") -> Metadata:
    clause = {"class": name, "count": 1} | ({"color": color} if color else {})
    return _prompt("colors" if color else "single_object", _a(f"{color} {name}".strip()), [clause])


def _two(task: str, a: str, b: str, colors: Sequence[str] = ("", ""), relation: str = "") -> Metadata:
    """Return a prompt of two objects; of a position, the first stands in `relation` to the second."""
    clauses: list[dict[str, Any]] = [
        {"class": name, "count": 1} | ({"color": color} if color else {})
        for name, color in zip((a, b), colors, strict=True)
    ]
    said = [_a(f"{color} {name}".strip()) for name, color in zip((a, b), colors, strict=True)]
    if relation:
        first, second = clauses  # GenEval names the second one first
        return _prompt(task, f"{said[0]} {relation} {said[1]}", [second, first | {"position": [relation, 0]}])
    return _prompt(task, f"{said[0]} and {said[1]}", clauses)


def _count(name: str, count: int) -> Metadata:
    text = f"{('two', 'three')[count - 2]} {plural(name)}"
    whole = _prompt("counting", text, [{"class": name, "count": count}])
    return {**whole, "exclude": [{"class": name, "count": count + 1}]}


def _prompt(task: str, shown: str, include: list[dict[str, Any]]) -> Metadata:
    question = Question(f"Does this picture show {shown}?").as_metadata()
    return {"tag": task, "include": include, "prompt": f"a photo of {shown}", "questions": [question]}


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


Color = tuple[int, int, int]
_TONES: dict[str, Color] = {
    "red": (215, 25, 30), "yellow": (250, 215, 20), "blue": (25, 70, 220), "green": (25, 150, 55),
}  # fmt: skip
_GREY, _DARK, _WHITE = (150, 150, 150), (30, 30, 30), (250, 250, 250)


def _scene() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Return a picture of sky over grass, and what draws on it."""
    rows = np.linspace(0, 1, _DRAWN)[:, None, None]
    sky = np.array([135, 185, 235]) + rows * np.array([80, 50, 15])
    ground = np.array([95, 145, 75]) - rows * np.array([20, 25, 20])
    pixels = np.where(rows < 0.72, sky, ground) * np.ones((1, _DRAWN, 1))
    image = Image.fromarray(pixels.astype(np.uint8))
    return image, ImageDraw.Draw(image)


def _stop_sign(color: Color = (190, 20, 30)) -> Image.Image:
    image, draw = _scene()
    draw.rectangle((246, 300, 266, 512), fill=_GREY)
    for radius, fill in ((165, _WHITE), (153, color)):
        draw.regular_polygon((256, 200, radius), 8, fill=fill)
    _write(image, "STOP", (256, 200), 216)
    return image


def _write(image: Image.Image, text: str, center: tuple[int, int], width: int) -> None:
    """Write white letters, `width` pixels wide."""
    small = Image.new("L", (200, 40))
    ImageDraw.Draw(small).text((10, 10), text, fill=255)
    small = small.crop(small.getbbox())
    height = round(width * small.height / small.width)
    mask = small.resize((width, height), Image.Resampling.BICUBIC)
    image.paste(_WHITE, (center[0] - width // 2, center[1] - height // 2), mask)


def _clock(color: Color = _WHITE) -> Image.Image:
    image = Image.new("RGB", (_DRAWN, _DRAWN), (196, 180, 160))
    draw = ImageDraw.Draw(image)
    draw.ellipse((76, 76, 436, 436), fill=color, outline=_DARK, width=16)
    for hour in range(12):
        x, y = (np.cos(hour * np.pi / 6), np.sin(hour * np.pi / 6))
        draw.line((256 + 140 * x, 256 + 140 * y, 256 + 162 * x, 256 + 162 * y), fill=_DARK, width=10)
    draw.line((256, 256, 256 + 62, 256 - 66), fill=_DARK, width=14)
    draw.line((256, 256, 256 - 70, 256 - 112), fill=_DARK, width=9)
    draw.ellipse((246, 246, 266, 266), fill=_DARK)
    return image


def _traffic_light(color: Color = (35, 35, 35)) -> Image.Image:
    image, draw = _scene()
    draw.rectangle((246, 380, 266, 512), fill=_DARK)
    draw.rounded_rectangle((186, 60, 326, 390), 26, fill=color)
    for row, fill in enumerate(((235, 40, 40), (95, 80, 25), (20, 75, 40))):
        draw.ellipse((211, 80 + 100 * row, 301, 170 + 100 * row), fill=fill)
    return image


def _umbrella(color: Color = (215, 25, 30)) -> Image.Image:
    image, draw = _scene()
    draw.line((256, 110, 256, 420), fill=_DARK, width=9)
    draw.arc((208, 390, 260, 450), 0, 180, fill=_DARK, width=9)
    draw.pieslice((66, 100, 446, 420), 180, 360, fill=color)
    for left in (66, 161, 256, 351):
        draw.ellipse((left, 240, left + 95, 280), fill=(175, 205, 240))
    for x in (161, 256, 351):
        draw.line((256, 100, x, 258), fill=tuple(c * 3 // 4 for c in color), width=4)
    return image


def _frisbee(color: Color = (215, 25, 30)) -> Image.Image:
    image, draw = _scene()
    draw.ellipse((96, 170, 416, 300), fill=tuple(c * 3 // 4 for c in color))
    draw.ellipse((96, 155, 416, 280), fill=color)
    draw.ellipse((166, 182, 346, 250), outline=tuple(c * 7 // 8 for c in color), width=5)
    return image


def _orange(color: Color = (245, 140, 20)) -> Image.Image:
    image = Image.new("RGB", (_DRAWN, _DRAWN), (225, 215, 200))
    draw = ImageDraw.Draw(image)
    draw.ellipse((106, 380, 426, 450), fill=(185, 172, 155))
    for step in range(60):
        shade = tuple(min(255, c * (70 + step // 2) // 90) for c in color)
        draw.ellipse((106 + 2 * step, 96 + 2 * step, 416 - 3 * step, 416 - 3 * step), fill=shade)
    draw.ellipse((246, 100, 270, 116), fill=(70, 100, 40))
    return image


_OBJECTS: Mapping[str, Callable[..., Image.Image]] = {
    "stop sign": _stop_sign, "clock": _clock, "traffic light": _traffic_light, "umbrella": _umbrella,
    "frisbee": _frisbee, "orange": _orange,
}  # fmt: skip
