"""Evaluate a folder of images into results.jsonl: batch by batch, resumable, nothing silently dropped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from vhsbench.harness.common.atomic import file_sha256
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.images import DamagedImage, read_image
from vhsbench.harness.common.text import parse_json
from vhsbench.harness.geneval import folders
from vhsbench.harness.geneval.detector import Detector, judge
from vhsbench.harness.geneval.folders import FolderError, Row, Sample

Progress = Callable[[int, int], None]  # images done, of how many


@dataclass(frozen=True)
class Outcome:
    """How many images have a row, how many of these are from an earlier run, and what could not be judged."""

    evaluated: int
    resumed: int
    damaged: list[Row]  # filename, error
    ignored: list[str]  # other names among the images


def evaluate_folder(
    folder: Path,
    out: Path,
    detector: Detector,
    batch_size: int = 8,
    progress: Progress = lambda *_: None,
) -> Outcome:
    """Judge every image of `folder` that has no row in `out`; damaged images go to a list beside it.

    A killed run loses its current batch. Raises what read_folder raises, FolderError for results of
    another run, or what the detector raises.
    """
    found = folders.read_folder(folder, detector)
    samples, empty = found.samples, found.empty
    record = json.dumps(detector.info())
    done = _done(out, samples, record)
    out.parent.mkdir(parents=True, exist_ok=True)
    todo = [s for s in samples if folders.place(s.file) not in done]
    damaged: list[Row] = [{"filename": str(p), "error": "no images"} for p in empty]
    for start in range(0, len(todo), batch_size):
        progress(len(done) + start, len(samples))
        batch = todo[start : start + batch_size]
        images, broken = _read(batch)
        damaged += broken
        whole = [s for s in batch if s.file in images]
        judgements = judge(detector, list(images.values()), [s.metadata for s in whole])
        rows = [folders.as_row(s, j, record) for s, j in zip(whole, judgements, strict=True)]
        folders.append(out, rows)
    progress(len(samples), len(samples))
    _list_damaged(damaged_file(out), damaged)
    broken_images = len(damaged) - len(empty)
    return Outcome(len(samples) - broken_images, len(done), damaged, found.ignored)


def damaged_file(out: Path) -> Path:
    """Return the list of what could not be judged: results.damaged.jsonl beside results.jsonl.

    Every results file has its own: results.seed0.damaged.jsonl, or results.json.damaged for other extensions.
    """
    stem = out.name.removesuffix(".jsonl")
    return out.parent / (f"{out.name}.damaged" if stem == out.name else f"{stem}.damaged.jsonl")


def _done(out: Path, samples: Sequence[Sample], record: str) -> set[str]:
    """Return the rows of `out` by the images' places; cut off an incomplete last line.

    Raises FolderError for rows of another run, that is, of other images, whatever their path.
    """
    if not out.exists():
        return set()
    folders.mend(out)
    here = {folders.place(s.file): s for s in samples}
    done = set()
    for row in folders.read_results(out).rows:
        place = folders.place(row["filename"])
        sample = here.get(place)
        if row.get("detector") != record:
            raise FolderError(
                f"{out} was judged by another detector ({row.get('detector', 'not recorded')}); give another --out."
            )
        if sample is None or _metadata(row, out) != sample.metadata:
            raise FolderError(
                f"{out} has a row of {row['filename']} that the folder does not; give another --out."
            )
        if row.get("image_sha256") != file_sha256(sample.file):
            raise FolderError(f"{out} has a row of another image than {sample.file}; give another --out.")
        done.add(place)
    return done


def _metadata(row: Row, out: Path) -> Any:
    with read_errors_as(FolderError):
        return parse_json(row["metadata"], f"{out}, metadata of {row['filename']}")


def _read(batch: Sequence[Sample]) -> tuple[dict[Path, Image.Image], list[Row]]:
    images, broken = {}, []
    for sample in batch:
        try:
            images[sample.file] = read_image(sample.file)
        except DamagedImage as error:
            broken.append({"filename": str(sample.file), "error": str(error)})
    return images, broken


def _list_damaged(file: Path, damaged: Sequence[Row]) -> None:
    file.unlink(missing_ok=True)
    if damaged:
        folders.append(file, damaged)
