"""GenEval's files: folders of images, and results as JSON lines.

A folder holds NNNNN/metadata.jsonl (one prompt's metadata) and NNNNN/samples/0000.png, 0001.png, ...
A result row has the official keys filename, tag, prompt, correct, reason, metadata and details (the last
two as JSON text), `detector`, which says what judged, and `image_sha256`, of the image's file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vhsbench.harness.common.atomic import file_sha256
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import LARGE, read_bytes, read_errors_as
from vhsbench.harness.common.images import Listing, list_images
from vhsbench.harness.common.text import decode, parse_json_lines, read_json
from vhsbench.harness.geneval.detector import Detector, Judgement, check_classes
from vhsbench.harness.geneval.metadata import check
from vhsbench.harness.geneval.rules import Objects

Row = dict[str, Any]
KEYS = ("filename", "tag", "prompt", "correct", "reason", "metadata", "details")
_NEEDED = ("filename", "tag", "correct", "metadata")  # the other keys explain, and may be missing or null


class FolderError(VhsbenchError):
    """A folder or results file that cannot be used; the message is one sentence for a user."""


@dataclass(frozen=True)
class Sample:
    """One image of a folder and the metadata of its prompt."""

    file: Path
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class Folder:
    """The images of a folder, by prompt and then in natural order of names."""

    samples: list[Sample]
    empty: list[Path]  # prompts' folders without images
    ignored: list[str]  # files among the images that are not images, such as 00000/samples/notes.txt


def read_folder(folder: Path, detector: Detector | None = None) -> Folder:
    """Read a folder of generated images, in GenEval's layout.

    Raises FolderError if there are no images at all, MetadataError for a prompt's metadata, and UnknownClass
    for a prompt that `detector` cannot judge.
    """
    if not folder.is_dir():
        raise FolderError(f"{folder} is no folder; give one that holds 00000/metadata.jsonl, 00001/...")
    prompts = sorted(
        (p for p in folder.iterdir() if p.is_dir() and p.name.isdecimal()), key=lambda p: int(p.name)
    )
    found = Folder([], [], [])
    for prompt in prompts:
        metadata = read_metadata(prompt / "metadata.jsonl")
        if detector is not None:
            check_classes(detector, metadata, str(prompt / "metadata.jsonl"))
        inside = prompt / "samples"
        # no end anchor: the official evaluator also takes 0000.png.bak
        listing = list_images(inside, r"\d+\.png") if inside.is_dir() else Listing([], [])
        found.samples.extend(Sample(f, metadata) for f in listing.files)
        found.ignored.extend(f"{prompt.name}/samples/{name}" for name in listing.ignored)
        if not listing.files:
            found.empty.append(prompt)
    if not found.samples:
        raise FolderError(f"{folder} holds no images; they are expected as 00000/samples/0000.png.")
    return found


def read_metadata(file: Path) -> dict[str, Any]:
    """Read a prompt's metadata. Raises FolderError for an unreadable file, MetadataError for unusable metadata."""
    with read_errors_as(FolderError):
        metadata = read_json(file)
    return check(metadata, str(file))


def as_row(sample: Sample, judgement: Judgement, detector: str) -> Row:
    """Make the results row of an image; `detector` is the detector's record as JSON text.

    `filename` is the path as given, as in the official evaluator; the image is identified by its place and bytes.
    """
    return {
        "filename": str(sample.file),
        "tag": sample.metadata["tag"],
        "prompt": sample.metadata["prompt"],
        "correct": judgement.correct,
        "reason": judgement.reason,
        "metadata": json.dumps(sample.metadata),
        "details": json.dumps(boxes(judgement.objects)),
        "detector": detector,
        "image_sha256": file_sha256(sample.file),
    }


def place(file: Path | str) -> str:
    """Return an image's place in its folder, wherever that is: 00000/samples/0000.png."""
    return "/".join(Path(file).parts[-3:])


def boxes(objects: Objects) -> dict[str, list[list[float]]]:
    """Return [x1, y1, x2, y2, score] of each object by class; float32 widened, as in the official files."""
    return {
        name: [np.array([*d.box, d.score], dtype=np.float32).tolist() for d in found]
        for name, found in objects.items()
    }


@dataclass(frozen=True)
class Results:
    """The rows of a results file, one per image, and the filenames of repeated rows."""

    rows: list[Row]
    doubles: list[str]


def read_results(file: Path) -> Results:
    """Read all complete rows; ignore an incomplete last line, left by a killed run.

    Merged files may have an image's row several times; it counts once. Raises FolderError for a line that is
    no result, or where two rows of one image differ.
    """
    with read_errors_as(FolderError):
        found = parse_json_lines(decode(_whole(file), str(file)), str(file))
    first: dict[str, tuple[int, Row]] = {}
    doubles = []
    for number, row in found:
        _check_result(row, f"{file}, line {number}")
        name = row["filename"]
        before, same = first.setdefault(name, (number, row))
        if same != row:
            raise FolderError(
                f"{file}, lines {before} and {number}: two results of one image, {name}, that differ; keep one."
            )
        if before != number:
            doubles.append(name)
    return Results([row for _, row in first.values()], doubles)


def _check_result(row: Row, where: str) -> None:
    for key in KEYS:
        if key not in row and key in _NEEDED:
            raise FolderError(f"{where}: no GenEval result: '{key}' is missing.")
        if row.get(key) is None and key not in _NEEDED:
            row[key] = ""
        wanted, name = (bool, "true or false") if key == "correct" else (str, "a text")
        if not isinstance(row[key], wanted):
            raise FolderError(f"{where}: no GenEval result: '{key}' is not {name}.")


def mend(file: Path) -> None:
    """Cut off an incomplete last line, left by a killed run. Raises FolderError."""
    with read_errors_as(FolderError):
        whole = _whole(file)
    os.truncate(file, len(whole))
    if whole and not whole.endswith(b"\n"):
        with file.open("ab") as stream:
            stream.write(b"\n")


def append(file: Path, rows: Iterable[Row]) -> None:
    """Append rows, and wait until they are on disk."""
    with file.open("ab") as stream:
        stream.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        stream.flush()
        os.fsync(stream.fileno())


def _whole(file: Path) -> bytes:
    """Return the file's bytes, without a last line that lacks its end and is not JSON. Raises ReadError."""
    data = read_bytes(file, LARGE)
    cut = data.rfind(b"\n") + 1
    try:
        json.loads(data[cut:])  # not by our own rules: a complete line that breaks them is not cut off
    except (ValueError, RecursionError):
        return data[:cut]
    return data
