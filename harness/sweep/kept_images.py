"""The pictures that a run keeps for its galleries: of which prompts, and where they lie. Light to import."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vhsbench.harness.common.files import LARGE, ReadError, read_bytes
from vhsbench.harness.common.tasks import in_order
from vhsbench.harness.store.keys import CANDIDATE

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from vhsbench.harness.store.tables import Run


def image_name(key: str, prompt_id: int, index: int) -> str:
    """Return where a picture lies in a run directory; `key` is the generator entry's."""
    return f"images/{key}/{prompt_id:05d}_{index:04d}.png"


def image_file(run: Path, key: str, prompt_id: int, index: int) -> Path:
    """Return the picture's file in the run directory `run`."""
    return run / image_name(key, prompt_id, index)


def gallery_prompts(prompts: Sequence[dict[str, Any]], count: int) -> list[int]:
    """Choose the ids of `count` prompts, the tasks in turn, spread over each task's prompts."""
    tags = [str(p["tag"]) for p in prompts]
    by_task = [[i for i, t in enumerate(tags) if t == tag] for tag in in_order(tags)]
    per_task = -(-count // len(by_task)) if by_task else 0
    picks = [np.linspace(0, len(i) - 1, min(per_task, len(i))).astype(int) for i in by_task]
    return [ids[k] for ids, chosen in zip(by_task, picks, strict=True) for k in chosen][:count]


class Pictures:
    """The images that a run kept: of its first seed, of the gallery's prompts. `lost` are damaged or gone since."""

    def __init__(self, run: Run) -> None:
        """Look at every picture that run.json has a digest of; of earlier versions' runs, as they are asked for."""
        own = {
            "path": str(run.path),
            "seeds": run.info["config"]["seeds"],
            "digests": run.info.get("digests"),
        }
        parts = run.info.get("combined") or [own]
        self._places = [_Place(Path(part["path"]), part["seeds"][0], part.get("digests")) for part in parts]
        self.lost = [file for place in self._places for file in place.lost()]

    def file(self, row: Any) -> Path | None:
        """Return the file of a candidate's row (generator, steps, prompt_id, seed, index), if it was kept."""
        for place in self._places:
            if place.seed != row["seed"]:
                continue
            for key in (f"{row['generator']}_steps={row['steps']}", row["generator"]):
                name = image_name(key, int(row["prompt_id"]), int(row["index"]))
                if place.kept(name):
                    return place.folder / name
        return None

    def image(self, row: Any) -> Image.Image | None:
        """Read a candidate's picture; None for a lost one. Raises FileNotFoundError if it was not kept."""
        file = self.file(row)
        if file is None:
            raise FileNotFoundError(f"no picture of prompt {row['prompt_id']}, candidate {row['index']}.")
        if file in self.lost:
            return None
        picture = _picture(file)
        if picture is None:
            self.lost.append(file)
        return picture

    def kept(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return the rows whose picture was kept, lost ones too."""
        rows = rows[rows["seed"].isin({place.seed for place in self._places})]
        candidates = rows[CANDIDATE].to_dict("records")
        return rows[[self.file(candidate) is not None for candidate in candidates]]

    def notes(self) -> list[str]:
        """Return sentences on the lost pictures."""
        if not self.lost:
            return []
        first = self.lost[0]
        which = "a kept picture is" if len(self.lost) == 1 else f"{len(self.lost)} kept pictures are"
        return [
            f"{which} damaged or gone, first {first}; `vhsbench run` of the same configuration makes it again."
        ]


class _Place:
    """A run's folder, the seed whose pictures it kept, and their digests where it knows them."""

    def __init__(self, folder: Path, seed: int, digests: dict[str, str] | None) -> None:
        self.folder, self.seed = folder, seed
        self._digests = None if digests is None else {n: d for n, d in digests.items() if _is_picture(n)}

    def kept(self, name: str) -> bool:
        return (self.folder / name).exists() if self._digests is None else name in self._digests

    def lost(self) -> Iterator[Path]:
        for name, digest in (self._digests or {}).items():
            if not _is(self.folder / name, digest):
                yield self.folder / name


def _is_picture(name: str) -> bool:
    return name.startswith("images/") and ".." not in name.split("/")


def _is(file: Path, digest: str) -> bool:
    try:
        return hashlib.sha256(read_bytes(file, LARGE)).hexdigest() == digest
    except ReadError:
        return False


def _picture(file: Path) -> Image.Image | None:
    from vhsbench.harness.common.images import DamagedImage, read_image

    try:
        return read_image(file)
    except DamagedImage:
        return None
