"""A contact sheet: all candidates of a prompt with their scores, the winner framed."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

_TILE = 224  # pixels a candidate is shown at
_GAP = 12
_LINE = 24
_INK, _WINNER, _PAPER = (30, 30, 30), (0, 130, 70), (255, 255, 255)


def contact_sheet(
    images: Sequence[Image.Image], scores: Sequence[float], winner: int, title: str, subtitle: str = ""
) -> Image.Image:
    """Draw the images in reading order, each under its index and score; `winner` is the index of the best."""
    from PIL import Image, ImageDraw, ImageFont

    columns = max(2, min(len(images), math.ceil(math.sqrt(1.6 * len(images)))))
    rows = -(-len(images) // columns)
    step = _TILE + _GAP
    width = columns * step + _GAP
    font, small = ImageFont.load_default(18), ImageFont.load_default(15)
    lines = textwrap.wrap(title, max(20, width // 9)) or [""]
    top = _GAP + _LINE * (len(lines) + bool(subtitle)) + _GAP
    sheet = Image.new("RGB", (width, top + rows * (step + _LINE)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(lines):
        draw.text((_GAP, _GAP + i * _LINE), line, _INK, font)
    draw.text((_GAP, _GAP + len(lines) * _LINE), subtitle, _INK, small)
    for i, (image, score) in enumerate(zip(images, scores, strict=True)):
        x, y = _GAP + i % columns * step, top + i // columns * (step + _LINE)
        scaling = Image.Resampling.NEAREST if image.width < _TILE else Image.Resampling.LANCZOS
        sheet.paste(image.convert("RGB").resize((_TILE, _TILE), scaling), (x, y))
        label = f"{i}: {score:+z.3f}" + ("  best" if i == winner else "")
        draw.text((x, y + _TILE + 5), label, _WINNER if i == winner else _INK, small)
        if i == winner:
            draw.rectangle((x - 5, y - 5, x + _TILE + 4, y + _TILE + 4), outline=_WINNER, width=5)
    return sheet
