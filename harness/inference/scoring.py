"""Scores of a user's own images, hidden states or latents, each against its prompt."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.images import DamagedImage, ignored_sentence, list_images, read_image
from vhsbench.harness.common.prompt_files import parse_texts
from vhsbench.harness.common.shown import csv_bytes, printable
from vhsbench.harness.common.tensors import load_tensors
from vhsbench.harness.common.text import read_text
from vhsbench.harness.inference.candidates import finite_rows
from vhsbench.verifiers.checks import marks

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from vhsbench.verifiers.protocol import Verifier

_TENSOR = "features"


class ScoringError(VhsbenchError):
    """Inputs that cannot be scored; the message is one sentence for a user."""


@dataclass(frozen=True)
class Inputs:
    """As many prompts as items; `items` are image files, or a tensor whose rows are candidates."""

    prompts: Sequence[str]
    items: Any
    names: Sequence[str]  # of the image files, or the rows' numbers
    ignored: str = ""  # a sentence, of what lies beside the images

    def name(self, start: int, row: int) -> str:
        """Return an item in words, for errors: the one `row` places after `start`."""
        at = start + row
        return f"{self.names[at]} (prompt '{printable(self.prompts[at])}')"


def load_inputs(prompts: Path, images: Path | None, features: Path | None) -> Inputs:
    """Return the prompts and what goes with them. Raises ScoringError where they do not fit."""
    texts = read_prompts(prompts)
    if images is not None:
        if not images.is_dir():
            raise ScoringError(f"--images {images} is not a folder.")
        listing = list_images(images)
        _refuse_doubles(images, listing.files)
        ignored = ignored_sentence(images, listing.ignored)
        items: Any = listing.files
        names, what = [f.name for f in items], f"{len(items)} images in {images}"
    else:
        assert features is not None
        ignored = ""
        items = _read_features(features)
        names, what = [str(i) for i in range(len(items))], f"{len(items)} rows of features in {features}"
    if len(texts) != len(items) or not texts:
        raise ScoringError(f"{len(texts)} prompts in {prompts} do not fit {what}; there must be one each.")
    return Inputs(texts, items, names, ignored)


def _refuse_doubles(folder: Path, files: Sequence[Path]) -> None:
    seen: dict[str, str] = {}
    for file in files:
        if file.stem in seen:
            raise ScoringError(
                f"{folder} holds {seen[file.stem]} and {file.name}; keep one picture of a name."
            )
        seen[file.stem] = file.name


def read_prompts(file: Path) -> list[str]:
    """Read JSON lines with "prompt" where the first line is a JSON object, else plain lines. Raises ScoringError."""
    with read_errors_as(ScoringError):
        return [prompt for _, prompt in parse_texts(read_text(file), str(file))]


def _read_features(file: Path) -> torch.Tensor:
    if not file.exists():
        raise ScoringError(f"--features {file} is not a file.")
    with read_errors_as(ScoringError):
        tensors = load_tensors(file)
    if _TENSOR not in tensors:
        held = ", ".join(f"'{k}'" for k in tensors) or "nothing"
        raise ScoringError(f"{file} lacks a tensor '{_TENSOR}'; it holds {held}.")
    if tensors[_TENSOR].dim() not in (3, 4):
        raise ScoringError(
            f"{file}: '{_TENSOR}' has shape {list(tensors[_TENSOR].shape)}, not [B, T, C] or [B, C, h, w]."
        )
    found = tensors[_TENSOR]
    if not found.is_floating_point():
        raise ScoringError(
            f"{file}: '{_TENSOR}' holds {str(found.dtype).removeprefix('torch.')}, not floats."
        )
    if not (sound := finite_rows(found)).all():
        row = sound.tolist().index(False)
        raise ScoringError(f"{file}: '{_TENSOR}' has numbers in row {row} that are NaN or infinite.")
    return found


def score_all(
    verifier: Verifier,
    inputs: Inputs,
    batch_size: int,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> pd.DataFrame:
    """Score all items, in columns index, item, prompt, verifier, p_yes, p_no, score.

    Raises ScoringError, or the verifier's own.
    """
    images = isinstance(inputs.items, list)
    if images != (verifier.needs == "images"):
        given, wanted = ("images", "--features") if images else ("features", "--images")
        raise ScoringError(
            f"verifier '{verifier.name}' reads {verifier.needs}, not {given}: give {wanted} instead."
        )
    frames = []
    for start in range(0, len(inputs.prompts), batch_size):
        progress(start, len(inputs.prompts))
        part = slice(start, start + batch_size)
        prompts = list(inputs.prompts[part])
        read = [_read_image(file) for file in inputs.items[part]] if images else inputs.items[part]
        name = partial(inputs.name, start)
        columns = marks(verifier, verifier.score(prompts, read), len(prompts), name)
        frames.append(pd.DataFrame({"item": list(inputs.names[part]), "prompt": prompts, **columns}))
    progress(len(inputs.prompts), len(inputs.prompts))
    scores = pd.concat(frames, ignore_index=True)
    scores.insert(0, "index", range(len(scores)))
    scores.insert(3, "verifier", verifier.name)
    return scores


def _read_image(file: Path) -> Image.Image:
    try:
        return read_image(file)
    except DamagedImage as error:
        raise ScoringError(str(error)) from error


def write(scores: pd.DataFrame, out: Path | None) -> None:
    """Write Parquet or CSV by the file's suffix; CSV on the standard output where there is no file."""
    if out is None:
        sys.stdout.write(csv_bytes(scores).decode())
    elif out.suffix == ".parquet":
        stream = io.BytesIO()
        scores.to_parquet(stream, index=False)
        write_output(out, stream.getvalue())
    else:
        write_output(out, csv_bytes(scores))
