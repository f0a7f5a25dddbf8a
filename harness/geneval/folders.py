"""GenEval's files: folders of images, and results as JSON lines.

A folder holds NNNNN/metadata.jsonl (one prompt's metadata) and NNNNN/samples/0000.png, 0001.png, ...
A result row has the official keys filename, tag, prompt, correct, reason, metadata and details (the last
two as JSON text), and `detector`, which says what judged.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from harness.common.errors import VhsbenchError
from harness.geneval.detector import Detector, Judgement, check_classes
from harness.geneval.metadata import check
from harness.geneval.rules import Objects

Row = dict[str, Any]
KEYS = ("filename", "tag", "prompt", "correct", "reason", "metadata", "details")


class FolderError(VhsbenchError):
    """A folder or results file that cannot be used; the message is one sentence for a user."""


class DamagedImage(VhsbenchError):
    """An image that cannot be read."""


@dataclass(frozen=True)
class Sample:
    """One image of a folder and the metadata of its prompt."""

    file: Path
    metadata: Mapping[str, Any]


def read_folder(folder: Path, detector: Detector | None = None) -> tuple[list[Sample], list[Path]]:
    """The images of a folder, by prompt and then by name; and its prompts' folders that hold none.

    Raises FolderError if there are no images at all, MetadataError for a prompt's metadata, and UnknownClass
    for a prompt that `detector` cannot judge.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder} is no folder; give one that holds 00000/metadata.jsonl, 00001/...")
    prompts = sorted(
        (p for p in folder.iterdir() if p.is_dir() and p.name.isdigit()), key=lambda p: int(p.name)
    )
    samples, empty = [], []
    for prompt in prompts:
        metadata = read_metadata(prompt / "metadata.jsonl")
        if detector is not None:
            check_classes(detector, metadata, str(prompt / "metadata.jsonl"))
        files = sorted((prompt / "samples").glob("*"))
        # no end anchor: the official evaluator also takes 0000.png.bak
        images = [f for f in files if f.is_file() and re.match(r"\d+\.png", f.name)]
        samples += [Sample(f, metadata) for f in images]
        if not images:
            empty.append(prompt)
    if not samples:
        raise FolderError(f"{folder} holds no images; they are expected as 00000/samples/0000.png.")
    return samples, empty


def read_metadata(file: Path) -> dict[str, Any]:
    """A prompt's metadata. Raises FolderError for a file that cannot be read, MetadataError for what it says."""
    try:
        metadata = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise FolderError(f"{file}: not the metadata of a GenEval prompt ({error!s}).") from None
    return check(metadata, str(file))


def read_image(file: Path) -> Image.Image:
    """An image as RGB, upright by its EXIF. Raises DamagedImage."""
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith("I"):  # 16 bits: OpenCV keeps the high byte, Pillow would clip
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DamagedImage(f"{file}: {error}") from None


def as_row(sample: Sample, judgement: Judgement, detector: str) -> Row:
    """The results row of an image; `detector` is the detector's record as JSON text."""
    return {
        "filename": str(sample.file),
        "tag": sample.metadata["tag"],
        "prompt": sample.metadata["prompt"],
        "correct": judgement.correct,
        "reason": judgement.reason,
        "metadata": json.dumps(sample.metadata),
        "details": json.dumps(boxes(judgement.objects)),
        "detector": detector,
    }


def boxes(objects: Objects) -> dict[str, list[list[float]]]:
    """[x1, y1, x2, y2, score] of each object by class; float32 widened, as the official files have it."""
    return {
        name: [np.array([*d.box, d.score], dtype=np.float32).tolist() for d in found]
        for name, found in objects.items()
    }


def read_results(file: Path) -> list[Row]:
    """All whole rows; a torn last line, left by a killed run, is not one. Raises FolderError."""
    rows = []
    for number, line in enumerate(_whole_lines(file), start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise FolderError(f"{file}, line {number}: not JSON.") from None
        if not isinstance(row, dict):
            raise FolderError(f"{file}, line {number}: no GenEval result, which is an object with {KEYS[0]}.")
        for key in KEYS:
            if key not in row:
                raise FolderError(f"{file}, line {number}: no GenEval result: '{key}' is missing.")
            wanted, name = (bool, "true or false") if key == "correct" else (str, "a text")
            if not isinstance(row[key], wanted):
                raise FolderError(f"{file}, line {number}: no GenEval result: '{key}' is not {name}.")
        rows.append(row)
    return rows


def mend(file: Path) -> None:
    """Make the file end with a whole line: what a killed run left half written is cut off."""
    whole = b"".join(line + b"\n" for line in _whole_lines(file))
    if len(whole) <= file.stat().st_size:
        os.truncate(file, len(whole))
    else:  # only the line's end was missing
        with file.open("ab") as stream:
            stream.write(b"\n")


def append(file: Path, rows: Iterable[Row]) -> None:
    """Add rows at once, and wait until they are on the disk."""
    with file.open("ab") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        stream.flush()
        os.fsync(stream.fileno())


def _whole_lines(file: Path) -> list[bytes]:
    *lines, last = file.read_bytes().split(b"\n")
    try:
        json.loads(last)
    except (ValueError, RecursionError):
        return lines
    return [*lines, last]
