"""Training features on disk: safetensors shards, one JSON line per sample, and a manifest that is written last."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.data import Dataset

from vhsbench.generators.protocol import Block, GeneratorError, read_block
from vhsbench.harness.common.atomic import room_on_disk, write_atomic
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import LARGE, check_regular, read_bytes, read_errors_as
from vhsbench.harness.common.tensors import open_tensors
from vhsbench.harness.common.text import decode, parse_json_lines, read_json_object
from vhsbench.verifiers.protocol import Needs

DataStage = Literal["alignment", "labels"]
MANIFEST = "manifest.json"
_PLAN = "collection.json"  # the plan of the collection, until the manifest is there
_FEATURES = "features"
_ROW_KINDS: dict[str, type] = {
    "prompt_id": int, "prompt": str, "tag": str, "seed": int, "index": int, "caption": str,
}  # fmt: skip
_KINDS = {int: "a whole number", str: "text", bool: "true or false"}


class ShardError(VhsbenchError):
    """Shards that cannot be used; the message is one sentence for a user."""


@dataclass(frozen=True)
class Shard:
    """One file of features and its rows; `sha256` is over both files, features first."""

    file: str
    rows: int
    sha256: str


@dataclass(frozen=True)
class DataCard:
    """What a folder of shards holds: manifest.json.

    Of hidden states only block `block` (l*), or the mean of several, is stored, [T, D] a sample; latents are
    [C, h, w]; images uint8 [H, W, 3]. `dtype` is torch's name of it, without "torch.".
    """

    stage: DataStage
    generator: str
    revision: str
    steps: int
    reads: Needs
    block: Block | None
    feature_shape: tuple[int, ...]
    dtype: str
    prompts_sha256: str
    collection: Mapping[str, Any] = field(default_factory=dict)  # by what: detector, captioner, seed, ...
    shards: tuple[Shard, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return sum(s.rows for s in self.shards)

    def sha256(self) -> str:
        """Hash the whole data: the card and its shards' hashes."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class ShardWriter:
    """Writes shards one by one; a shard is finished when its .sha256 is there, the folder when its manifest is.

    Raises ShardError if the folder holds shards of another collection.
    """

    def __init__(self, folder: Path, card: DataCard) -> None:
        self.folder, self.card = folder, replace(card, shards=(), metrics={})
        with room_on_disk(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._claim()

    def _claim(self) -> None:
        plan = self.folder / _PLAN
        text = json.dumps(asdict(self.card), indent=1, sort_keys=True) + "\n"
        if not plan.exists():
            write_atomic(plan, text.encode(), shared=True)
        elif (there := self._plan()) != json.loads(text):
            before, now = _flat(there), _flat(json.loads(text))
            key = next(k for k in now | before if before.get(k) != now.get(k))
            raise ShardError(
                f"{self.folder} holds a collection with {key} {before.get(key)}, not {now.get(key)}; "
                "choose another folder."
            )

    def _plan(self) -> dict[str, Any]:
        with read_errors_as(ShardError):
            return read_json_object(self.folder / _PLAN)

    @property
    def finished(self) -> bool:
        """Whether the manifest is written."""
        return (self.folder / MANIFEST).exists()

    def done(self, i: int) -> bool:
        """Tell whether shard `i` is finished."""
        return (self.folder / f"{_name(i)}.sha256").exists()

    def write(self, i: int, features: torch.Tensor, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write features [S, ...] and S rows. Raises ShardError for other shapes, DiskFullError."""
        from safetensors.torch import save

        self._check(features, rows)
        name = _name(i)
        data = save({_FEATURES: features.detach().cpu().contiguous()})
        lines = "".join(json.dumps(dict(row)) + "\n" for row in rows).encode()
        digest = hashlib.sha256(data)
        digest.update(lines)
        with room_on_disk(self.folder):
            write_atomic(self.folder / f"{name}.safetensors", data)
            write_atomic(self.folder / f"{name}.jsonl", lines)
            write_atomic(self.folder / f"{name}.sha256", f"{digest.hexdigest()} {len(rows)}\n".encode())

    def _check(self, features: torch.Tensor, rows: Sequence[Mapping[str, Any]]) -> None:
        card = self.card
        given = (tuple(features.shape[1:]), str(features.dtype).removeprefix("torch."))
        if given != (tuple(card.feature_shape), card.dtype):
            raise ShardError(
                f"features are {list(given[0])} {given[1]} a sample, "
                f"but {self.folder} holds {list(card.feature_shape)} {card.dtype}."
            )
        if len(features) != len(rows):
            raise ShardError(f"{len(features)} features do not fit {len(rows)} rows.")
        keys = (*_ROW_KINDS,) + (("correct",) if card.stage == "labels" else ())
        for row in rows:
            if missing := [k for k in keys if k not in row]:
                raise ShardError(f"a row of {self.folder} lacks '{missing[0]}'.")

    def finish(self, metrics: Mapping[str, float] | None = None) -> DataCard:
        """Write the manifest of shards 0, 1, ..., and return the whole card."""
        shards: list[Shard] = []
        while self.done(len(shards)):
            name = _name(len(shards))
            sha256, rows = (self.folder / f"{name}.sha256").read_text(encoding="utf-8").split()
            shards.append(Shard(f"{name}.safetensors", int(rows), sha256))
        card = replace(self.card, shards=tuple(shards), metrics=dict(metrics or {}))
        with room_on_disk(self.folder):
            manifest = json.dumps(asdict(card), indent=1) + "\n"
            write_atomic(self.folder / MANIFEST, manifest.encode(), shared=True)
        return card


def _flat(card: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in card.items() if k != "collection"} | card.get("collection", {})


def _name(i: int) -> str:
    return f"shard-{i:05d}"


def read_data_card(folder: Path) -> DataCard:
    """Read the manifest of a finished folder. Raises ShardError."""
    file = folder / MANIFEST
    if not file.exists():
        state = (
            "its collection is unfinished: resume it" if (folder / _PLAN).exists() else "it holds no shards"
        )
        raise ShardError(f"{folder} has no {MANIFEST}; {state}.")
    with read_errors_as(ShardError):
        data = read_json_object(file)
    try:
        data["shards"] = tuple(Shard(**s) for s in data["shards"])
        for shard in data["shards"]:
            if Path(shard.file).name != shard.file:
                raise ShardError(f"{file} names the shard '{shard.file}', which is not inside {folder}.")
        data["feature_shape"] = tuple(data["feature_shape"])
        data["block"] = read_block(data["block"])
        return DataCard(**data)
    except (TypeError, KeyError, GeneratorError) as error:
        raise ShardError(f"{file} does not describe shards: {error}.") from error


class ShardDataset(Dataset[tuple[torch.Tensor, dict[str, Any]]]):
    """Samples (features, row) of a finished folder; features are read from disk on demand.

    Features come as stored: hidden [T, D], latents [C, h, w], images uint8 [H, W, 3].
    Raises ShardError if the folder is unfinished, damaged, or of something else than expected.
    """

    def __init__(
        self,
        folder: Path,
        *,
        stage: DataStage | None = None,
        generator: str | None = None,
        reads: Needs | None = None,
        block: Block | None = None,
        verify: bool = True,
    ) -> None:
        """`verify` reads every file once and compares its SHA-256; without it only sizes are checked."""
        self.folder, self.card = folder, read_data_card(folder)
        self._expect(stage=stage, generator=generator, reads=reads, block=block)
        self._features: list[torch.Tensor] = []
        self.rows: list[dict[str, Any]] = []
        for shard in self.card.shards:
            self._open(shard, verify)
        self._ends = list(accumulate(s.rows for s in self.card.shards))
        if not self.rows:
            raise ShardError(f"{folder} holds no samples.")

    def _expect(self, **wanted: Any) -> None:
        said = {"stage": "stage", "generator": "generator", "reads": "features", "block": "block"}
        for key, value in wanted.items():
            found = getattr(self.card, key)
            if value is not None and found != value:
                raise ShardError(
                    f"the shards in {self.folder} are of {said[key]} {found}, not of {said[key]} {value}: "
                    "collect them again, or train for these."
                )

    def _open(self, shard: Shard, verify: bool) -> None:
        file = self.folder / shard.file
        lines_file = file.parent / f"{file.name.removesuffix('.safetensors')}.jsonl"
        try:
            check_regular(file)
            lines = read_bytes(lines_file, LARGE)
            if verify and _sha256(file, lines) != shard.sha256:
                raise ShardError(f"{file} or its .jsonl is not what the manifest says: SHA-256 differs.")
            with open_tensors(file) as tensors:
                features = tensors.get_tensor(_FEATURES)  # memory-mapped: pages are read when touched
            rows = [row for _, row in parse_json_lines(decode(lines, str(lines_file)), str(lines_file))]
        except ShardError:
            raise
        except (OSError, ValueError) as error:
            raise ShardError(f"{file} or its .jsonl cannot be read: {error}.") from error
        if not features.dim():
            raise ShardError(f"{file}: '{_FEATURES}' is one number, not features.")
        if len(features) != shard.rows or len(rows) != shard.rows:
            raise ShardError(f"{file} has {len(features)} features and {len(rows)} rows, not {shard.rows}.")
        for number, row in enumerate(rows, start=1):
            self._check_row(row, f"{lines_file}, row {number}")
        self._features.append(features)
        self.rows += rows

    def _check_row(self, row: Mapping[str, Any], where: str) -> None:
        kinds = _ROW_KINDS | ({"correct": bool} if self.card.stage == "labels" else {})
        for key, kind in kinds.items():
            if type(row.get(key)) is not kind:
                raise ShardError(f"{where}: '{key}' is {row.get(key)!r}, not {_KINDS[kind]}.")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, dict[str, Any]]:
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        i %= len(self)
        shard = bisect_right(self._ends, i)
        within = i - (self._ends[shard - 1] if shard else 0)
        return self._features[shard][within], self.rows[i]

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, list[dict[str, Any]]]:
        """Return features [B, ...] and rows of some samples."""
        features, rows = zip(*(self[i] for i in indices), strict=True)
        return torch.stack(features), list(rows)

    @property
    def correct(self) -> torch.Tensor:
        """Return labels [S] bool. Raises ShardError if there are none."""
        if self.card.stage != "labels":
            raise ShardError(f"the shards in {self.folder} have no labels: they are for alignment.")
        return torch.tensor([bool(r["correct"]) for r in self.rows])


def _sha256(file: Path, lines: bytes) -> str:
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256")
    digest.update(lines)
    return digest.hexdigest()
