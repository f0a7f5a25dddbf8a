"""Generate a folder of images in GenEval's layout, from its metadata of prompts; it resumes and grows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.images import encode_image
from vhsbench.harness.common.prompt_files import parse_prompts
from vhsbench.harness.common.text import read_json, read_text
from vhsbench.harness.geneval.folders import FolderError, read_metadata
from vhsbench.harness.geneval.metadata import check
from vhsbench.harness.inference.candidates import Rows, generate

if TYPE_CHECKING:
    from vhsbench.generators.protocol import Generator

RECORD = "generation.json"  # what made the images: a folder holds those of one generator and seed


@dataclass(frozen=True)
class Made:
    """How many images were made, and how many were there already."""

    made: int
    resumed: int


def read_prompts(file: Path) -> list[dict[str, Any]]:
    """Read GenEval's metadata, JSON lines. Raises FolderError or MetadataError, with the line."""
    with read_errors_as(FolderError):
        found = parse_prompts(read_text(file), str(file))
    if not found:
        raise FolderError(f"{file}: has no prompts.")
    return [check(prompt, f"{file}, line {number}") for number, prompt in found]


def prepare(folder: Path, prompts: Sequence[Mapping[str, Any]], made_by: Mapping[str, Any]) -> None:
    """Write the prompts' metadata, or find the same there. Raises FolderError for a folder of something else.

    `made_by`, plain JSON, says what makes the images.
    """
    record, wanted = folder / RECORD, json.loads(json.dumps(made_by))
    there = sorted(int(p.name) for p in folder.iterdir() if p.name.isdecimal()) if folder.is_dir() else []
    if record.exists():
        with read_errors_as(FolderError):
            before = read_json(record)
        if before != wanted:
            keys = sorted({*before, *wanted}) if isinstance(before, dict) else []
            other = next((key for key in keys if before.get(key) != wanted.get(key)), "all")
            raise FolderError(
                f"{folder} holds images made otherwise ({RECORD}: '{other}' differs); give another folder."
            )
    elif there:
        raise FolderError(
            f"{folder} holds {there[0]:05d} already, and no {RECORD} that says what made it; give another folder."
        )
    if there and there[-1] >= len(prompts):
        raise FolderError(
            f"{folder} holds prompt {there[-1]:05d}, but there are {len(prompts)} prompts, from 00000; give the file "
            "that it was made from, or another folder."
        )
    write_output(record, json.dumps(wanted, indent=1) + "\n")
    for number, prompt in enumerate(prompts):
        file = _metadata(folder, number)
        if not file.exists():
            write_output(file, json.dumps(prompt) + "\n")
        elif read_metadata(file) != prompt:
            raise FolderError(
                f"{file} is of another prompt than line {number + 1} asks for; give another folder."
            )


def fill(
    folder: Path,
    prompts: Sequence[Mapping[str, Any]],
    count: int,
    seed: int,
    painter: Generator,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> Made:
    """Make the images 0 to `count` - 1 of every prompt that are not there, in a folder that was prepared.

    Candidate i of a prompt is the one that a run of these prompts has. Raises CandidateError for what is no picture.
    """
    done = made = 0
    for number, prompt in enumerate(prompts):
        files = {i: _metadata(folder, number).parent / "samples" / f"{i:04d}.png" for i in range(count)}
        missing = {i: file for i, file in files.items() if not file.exists()}
        done += count - len(missing)
        cond = painter.encode([prompt["prompt"]]) if missing else None
        for index, file in missing.items():
            assert cond is not None
            progress(done, count * len(prompts))
            rows = Rows(painter.name, [prompt["prompt"]], [(number, seed, index)])
            write_output(file, encode_image(generate(painter, cond, rows, ()).images[0]))
            done, made = done + 1, made + 1
    progress(done, count * len(prompts))
    return Made(made, done - made)


def _metadata(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}" / "metadata.jsonl"
