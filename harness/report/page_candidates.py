"""What the page's script needs of candidates: verdicts, scores, and as many kept pictures as the page has room for."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vhsbench.harness.common.images import encode_image
from vhsbench.harness.report.captions_csv import read_captions
from vhsbench.harness.report.derived import Derived
from vhsbench.harness.report.style import label, pool_title
from vhsbench.harness.store.keys import CANDIDATE, DRAW, IN_POOL, distinct, of_pool
from vhsbench.harness.sweep.kept_images import Pictures

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SIDE = 256  # a larger picture is scaled down to this many pixels
PAGE_MB = 25.0  # of the whole page
_LOST = -1  # in place of a picture's number
_ROW_SHARE = 1 / 3  # of the page, at most, for verdicts and scores
_SCORE_BYTES, _VERDICT_BYTES, _PROMPT_BYTES = 8 * 4 / 3, 5, 200  # in the page's JSON, about


@dataclass
class Prompts:
    """The page's prompts: those of several runs are one where task and text agree."""

    shown: list[dict[str, str]] = field(default_factory=list)
    _places: dict[tuple[str, str, int], int] = field(default_factory=dict)

    def places(self, prompts: Sequence[dict[str, Any]]) -> list[int]:
        """Return the place on the page of each of a run's prompts; a repeated prompt has a place each time."""
        seen: dict[tuple[str, str], int] = {}
        found = []
        for prompt in prompts:
            text = (prompt["tag"], prompt["prompt"])
            seen[text] = seen.get(text, 0) + 1
            key = (*text, seen[text])
            if key not in self._places:
                self._places[key] = len(self.shown)
                self.shown.append({"tag": text[0], "prompt": text[1]})
            found.append(self._places[key])
        return found


@dataclass
class Pool:
    """One pool of candidates on the page: rows of prompt and seed [R], M candidates each."""

    derived: Derived
    data: dict[str, Any]
    rows: pd.DataFrame  # CANDIDATE and correct, in the order of the page, R * M
    scores: dict[str, NDArray[np.float64]]  # [R, M] by verifier

    @property
    def size(self) -> int:
        return int(self.data["size"])

    def kept(self) -> list[int]:
        """List the cells (row * M + candidate) whose picture was kept, lost ones too."""
        return list(self.derived.pictures.kept(self.rows).index)

    def picks(self) -> set[int]:
        """Return the cells that a verifier picks among the first N candidates, for any N."""
        found = set[int]()
        for scores in self.scores.values():
            for n in range(1, self.size + 1):
                found.update(np.arange(len(scores)) * self.size + scores[:, :n].argmax(1))
        return found


def pools(derived: Derived, prompts: Prompts, run: str = "", limit_mb: float = PAGE_MB) -> list[Pool]:
    """Collect the run's pools. Where a page of `limit_mb` has no room for all prompts, some of each task are left out."""
    places = prompts.places(derived.run.prompts)
    ids = _with_room(derived, limit_mb)
    return [_pool(derived, generator, steps, places, ids, run) for generator, steps in derived.pools]


def _with_room(derived: Derived, limit_mb: float) -> list[int]:
    """List the ids of prompts for which there is room, those with pictures first, then of the six tasks in turn."""
    run = derived.run
    cells = len(run.candidates) * _VERDICT_BYTES + len(run.scores) * _SCORE_BYTES
    ids = sorted(run.candidates["prompt_id"].unique())
    each = cells / len(ids) + _PROMPT_BYTES
    room = int(limit_mb * 1e6 * _ROW_SHARE / each)
    if len(ids) <= room:
        return ids
    pictured = set(derived.pictures.kept(run.candidates)["prompt_id"])
    return sorted(sorted(in_turn(run.prompts, ids), key=lambda i: i not in pictured)[:room])


def in_turn(prompts: Sequence[dict[str, Any]], ids: Sequence[int]) -> list[int]:
    """Order the ids of prompts so that the tasks take turns."""
    of_task: dict[str, int] = {}
    turns = []
    for i in ids:
        tag = prompts[i]["tag"]
        of_task[tag] = of_task.get(tag, 0) + 1
        turns.append((of_task[tag], i))
    return [i for _, i in sorted(turns)]


def _pool(
    derived: Derived, generator: str, steps: int, places: Sequence[int], ids: Sequence[int], run: str
) -> Pool:
    found = of_pool(derived.run.candidates, generator, steps)
    rows = found[found["prompt_id"].isin(ids)].sort_values(IN_POOL, ignore_index=True)
    draws = distinct(rows, DRAW)
    size = len(rows) // len(draws)
    reasons, why = np.unique(rows["reason"].to_numpy(str), return_inverse=True)
    keys = pd.MultiIndex.from_frame(rows[IN_POOL])
    scored = of_pool(derived.run.scores, generator, steps)
    scores = {
        str(verifier): part.set_index(IN_POOL)["score"].reindex(keys).to_numpy(float).reshape(-1, size)
        for verifier, part in scored.groupby("verifier", sort=True)
    }
    data = {
        "name": run + pool_title((generator, steps), derived.pools),
        "size": size,
        "rows": [[places[prompt], seed] for prompt, seed in draws],
        "right": "".join("1" if right else "0" for right in rows["correct"]),
        "reasons": reasons.tolist(),
        "why": why.tolist(),
        "verifiers": [
            {"id": name, "label": label(name), "scores": _encoded(values), "captions": {}}
            for name, values in scores.items()
        ],
        "pictures": {},
    }
    _caption(data, derived, rows)
    return Pool(derived, data, rows[[*CANDIDATE, "correct"]], scores)


def _encoded(values: NDArray[np.float64]) -> str:
    """Encode exactly, as the script must break ties as Python does: little-endian doubles in base64."""
    return base64.b64encode(values.astype("<f8").tobytes()).decode()


def _caption(data: dict[str, Any], derived: Derived, rows: pd.DataFrame) -> None:
    """Add what an aligned verifier said of a candidate, by its cell."""
    if (said := read_captions(derived.run.path)) is None:
        return
    cells = {key: cell for cell, key in enumerate(rows[CANDIDATE].itertuples(index=False, name=None))}
    for entry in data["verifiers"]:
        mine = said[said["verifier"] == entry["id"]]
        for *key, caption in mine[[*CANDIDATE, "caption"]].itertuples(index=False, name=None):
            if (cell := cells.get(tuple(key))) is not None:
                entry["captions"][cell] = caption


class Album:
    """The page's pictures, as data: URIs, each once, up to `room` bytes."""

    def __init__(self, room: float) -> None:
        self.pictures: list[str] = []
        self.kept, self.shown, self.lost = 0, 0, 0
        self._room = room
        self._places: dict[str, int] = {}

    def fill(self, pools: Sequence[Pool]) -> None:
        """Add the kept pictures of pools to the album and their numbers to the pools: first what verifiers pick."""
        waiting = list(_order(pools))
        self.kept += len(waiting)
        for pool, cell in waiting:
            if self._room <= 0:
                break
            self._add(pool, cell)

    def _add(self, pool: Pool, cell: int) -> None:
        uri = _data_uri(pool.derived.pictures, pool.rows.iloc[cell])
        if uri and uri not in self._places:
            if len(uri) > self._room:
                self._room = 0
                return
            self._room -= len(uri)
            self._places[uri] = len(self.pictures)
            self.pictures.append(uri)
        pool.data["pictures"][cell] = self._places[uri] if uri else _LOST
        self.shown += bool(uri)
        self.lost += not uri


def _order(pools: Sequence[Pool]) -> Iterator[tuple[Pool, int]]:
    """Order kept pictures: what verifiers pick at any N before the rest, and the prompts of the six tasks in turn."""
    found = []
    for number, pool in enumerate(pools):
        picks = pool.picks()
        ids = list(dict.fromkeys(pool.rows["prompt_id"]))
        turn = {i: place for place, i in enumerate(in_turn(pool.derived.run.prompts, ids))}
        prompt_ids = pool.rows["prompt_id"].to_numpy()
        found += [(cell not in picks, turn[prompt_ids[cell]], number, cell) for cell in pool.kept()]
    return ((pools[number], cell) for *_, number, cell in sorted(found))


def about_pictures(album: Album, pools: Sequence[Pool], limit_mb: float) -> list[str]:
    """Say how many prompts and pictures are on the page, and why not more."""
    found = []
    for derived in {id(pool.derived): pool.derived for pool in pools}.values():
        mine = [pool for pool in pools if pool.derived is derived]
        shown = len({i for pool in mine for i in pool.rows["prompt_id"]})
        if shown < (of := derived.run.candidates["prompt_id"].nunique()):
            found.append(
                f"{shown:,} of {of:,} prompts are listed here: more do not fit in a page of {limit_mb:g} MB "
                "(`--page-mb`). Accuracies are of all prompts."
            )
    if not album.kept:
        return found
    if missing := album.kept - album.shown - album.lost:
        found.append(
            f"{album.shown:,} of {album.kept:,} kept pictures are shown, those that a verifier picks first; "
            f"{missing:,} do not fit in a page of {limit_mb:g} MB (`--page-mb`)."
        )
    else:
        found.append(f"All {album.shown:,} kept pictures are shown" + _and_lost(album.lost))
    found.append(
        "A run keeps the pictures of its first seed, of as many prompts as its configuration says (`gallery_prompts`)."
    )
    return found


def _and_lost(lost: int) -> str:
    return f", less {lost:,} that are damaged or gone." if lost else "."


def _data_uri(pictures: Pictures, row: Any) -> str:
    """Encode a small copy of the picture; "" for a lost one."""
    image = pictures.image(row)
    return "" if image is None else data_uri(image, IMAGE_SIDE)


def data_uri(image: Image.Image, side: int) -> str:
    """Encode a picture, scaled down to `side` pixels if it is larger: a small one as it is, others as JPEG."""
    small = max(image.size) <= IMAGE_SIDE
    image.thumbnail((side, side))
    kind = "png" if small else "jpeg"
    data = encode_image(image, kind, **({} if small else {"quality": 85}))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
