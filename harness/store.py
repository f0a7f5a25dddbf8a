"""A run directory: plain tables in Parquet, written shard by shard so that a kill loses nothing."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from harness.common.errors import VhsbenchError
from harness.common.files import read_errors_as
from harness.common.processes import HeldError, hold
from harness.common.text import decode, parse_json
from harness.prompt_files import parse_prompts
from harness.storage import Folder

log = logging.getLogger(__name__)


def _known(kind: pa.DataType, *names: str) -> list[pa.Field]:
    """Columns of which every row has a value."""
    return [pa.field(name, kind, nullable=False) for name in names]


def _unknown(kind: pa.DataType, *names: str) -> list[pa.Field]:
    """Columns that may be empty, where a value is unknown."""
    return [pa.field(name, kind) for name in names]


_S, _I = pa.string(), pa.int32()
_CANDIDATE = [
    *_known(_S, "generator"), *_known(_I, "steps", "prompt_id"), *_known(pa.int64(), "seed"),
    *_known(_I, "index"),
]  # fmt: skip
SCHEMAS: dict[str, pa.Schema] = {
    "candidates": pa.schema(
        [*_CANDIDATE, *_known(_S, "tag"), *_known(pa.bool_(), "correct"), *_known(_S, "reason")]
    ),
    "scores": pa.schema(
        [*_CANDIDATE, *_known(_S, "verifier"), *_unknown(pa.float32(), "p_yes", "p_no"),
         *_known(pa.float32(), "score")]
    ),
    "incidents": pa.schema(
        [*_known(_S, "generator"), *_known(_I, "steps"), *_known(pa.int64(), "seed"),
         *_known(_I, "prompt_id"), *_known(_S, "kind"), *_known(_I, "batch"), *_known(_S, "reason")]
    ),
    "costs": pa.schema(
        [*_known(_S, "generator"), *_known(_I, "steps"), *_known(_S, "verifier", "variant", "stage"),
         *_known(_I, "n", "batch", "repeat"),
         *_unknown(pa.float64(), "wall_ms", "event_ms", "phases_percent", "tflop", "moved_gb",
                   "peak_vram_gb", "peak_reserved_gb", "nvml_gb", "peak_rss_gb", "energy_j"),
         *_unknown(_S, "device"), *_known(_S, "status", "note")]
    ),
}  # fmt: skip
_ORDER = {
    "candidates": ["generator", "steps", "prompt_id", "seed", "index"],
    "scores": ["generator", "steps", "verifier", "prompt_id", "seed", "index"],
    "incidents": ["generator", "steps", "seed", "prompt_id", "kind", "batch"],
    "costs": ["generator", "steps", "verifier", "variant", "stage", "n", "batch", "repeat"],
}
MEASURING = ".measuring"  # held by the process that measures, which may outlive a driver
_STRANGER_S = 10.0  # that it is given to end
_KEY = re.compile(r"[A-Za-z0-9._=+-]+")


class StoreError(VhsbenchError):
    """A run directory that cannot be used; the message is one sentence for a user."""


@dataclass(frozen=True)
class Run:
    """A finished run, read back."""

    path: Path
    info: dict[str, Any]
    prompts: list[dict[str, Any]]
    candidates: pd.DataFrame
    scores: pd.DataFrame
    costs: pd.DataFrame


class RunStore:
    """The writing side of a run directory; one process at a time. Use it as a context manager."""

    def __init__(self, path: Path | str, config: Mapping[str, Any], resume: bool = True) -> None:
        """Open a run (a directory or an fsspec URL), or resume it. Raises StoreError, and changes nothing, if another process has
        it, if it is of another config, or if there is one and `resume` is false."""
        self.path = path
        self.damaged: list[str] = []
        self.folder = Folder(path)
        self.folder.check_writable()
        self._lock = _lock(self.folder.local) if self.folder.local else None
        try:
            self.info = _adopt(self.folder, json.loads(json.dumps(config)), resume)
            self.update(status=self.info["status"])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RunStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the directory up."""
        if self._lock is not None:
            self._lock.close()

    @property
    def measuring(self) -> Path | None:
        """The file that a process holds while it measures for this run; None at a URL."""
        return self.folder.local / MEASURING if self.folder.local else None

    def update(self, **info: Any) -> None:
        """Merge into run.json."""
        self.info |= info
        self.folder.write("run.json", json.dumps(self.info, indent=1).encode() + b"\n")

    def write_prompts(self, prompts: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(p) + "\n" for p in prompts)
        self.folder.write("prompts.jsonl", text.encode())

    def has(self, table: str, key: str) -> bool:
        """Whether the shard is there and whole; a damaged one is removed, logged and put in `damaged`."""
        file = _shard(table, key)
        if not self.folder.exists(file):
            return False
        if self._digest(file) == _sha256(self.folder.read(file)):
            return True
        self.damaged.append(f"{table}/{key}")
        log.warning("%s/%s is damaged; removed, to be done again.", self.folder, file)
        self.folder.remove(file)
        return False

    def keys(self, table: str) -> set[str]:
        """The shards that are there, whole or not: one listing, for a first look."""
        return set(self.folder.names(f"shards/{table}", ".parquet"))

    def write_shard(self, table: str, key: str, rows: pd.DataFrame) -> None:
        """Write one shard, whole or not at all. Raises StoreError if the rows do not fit SCHEMAS."""
        data = _parquet(rows, table)
        file = _shard(table, key)
        # the digest first: a shard without its own digest never counts
        self.folder.write(file.removesuffix(".parquet") + ".sha256", _sha256(data).encode())
        self.folder.write(file, data)

    def read_shards(self, table: str, keys: Iterable[str]) -> pd.DataFrame:
        """Rows of whole shards, in the order of `keys`."""
        parts = [_read_table(self.folder, _shard(table, key), table) for key in keys]
        return pa.concat_tables([SCHEMAS[table].empty_table(), *parts]).to_pandas()

    def consolidate(self) -> None:
        """Write each table whole, in one fixed order of rows, from its shards.

        Raises StoreError if a shard is damaged (a restart redoes it) or a row is there twice.
        """
        for table in SCHEMAS:
            keys = self.folder.names(f"shards/{table}", ".parquet")
            if damaged := [key for key in keys if not self.has(table, key)]:
                raise StoreError(
                    f"{self.path} had {len(damaged)} damaged shard(s), first {table}/{damaged[0]}, "
                    "now removed; run it again to redo them."
                )
            rows = self.read_shards(table, keys)
            rows = rows.sort_values(_ORDER[table], kind="stable", ignore_index=True)
            if (twice := rows.duplicated(_ORDER[table])).any():
                first = rows.loc[twice, _ORDER[table]].iloc[0].to_dict()
                raise StoreError(f"{self.path}: a row of {table} is there twice: {first}.")
            self.folder.write(f"{table}.parquet", _parquet(rows, table))

    def _digest(self, file: str) -> str:
        try:
            return self.folder.read(file.removesuffix(".parquet") + ".sha256").decode(errors="replace")
        except FileNotFoundError:
            return ""


def _shard(table: str, key: str) -> str:
    if table not in SCHEMAS or not _KEY.fullmatch(key) or key.startswith("."):
        raise StoreError(f"'{table}/{key}' is no name for a shard.")
    return f"shards/{table}/{key}.parquet"


def load_run(path: Path | str) -> Run:
    """Read a finished run. Raises StoreError if it is none, unfinished, or a file is missing or damaged."""
    folder, info = _finished(path)
    tables = {table: _table(folder, table) for table in ("candidates", "scores", "costs")}
    return Run(Path(path), info, _read_prompts(folder), **tables)


def load_costs(path: Path | str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The costs of a finished run, or of a cost benchmark, and its run.json. Raises StoreError as `load_run`."""
    folder, info = _finished(path)
    return _table(folder, "costs"), info


def _finished(path: Path | str) -> tuple[Folder, dict[str, Any]]:
    folder = Folder(path)
    info = read_info(folder)
    if info is None:
        raise StoreError(f"{path} is not a run directory: it has no run.json.")
    if info["status"] != "complete":
        raise StoreError(f"the run in {path} is not finished; `vhsbench run` with it as --out resumes it.")
    return folder, info


def _table(folder: Folder, table: str) -> pd.DataFrame:
    if not folder.exists(f"{table}.parquet"):
        raise StoreError(f"the run in {folder} has no {table}.parquet.")
    return _read_table(folder, f"{table}.parquet", table).to_pandas()


def _parquet(rows: pd.DataFrame, table: str) -> bytes:
    schema = SCHEMAS[table]
    if odd := sorted({*schema.names} ^ {*map(str, rows.columns)}):
        raise StoreError(f"rows for {table} lack or add the column '{odd[0]}'.")
    if gaps := [f.name for f in schema if not f.nullable and rows[f.name].isna().any()]:
        raise StoreError(f"rows for {table} have no value in '{gaps[0]}', which every row must have.")
    try:
        data = pa.Table.from_pandas(rows[schema.names], schema, preserve_index=False)
    except pa.ArrowException as error:
        raise StoreError(f"rows for {table} are of wrong types: {error}.") from error
    sink = pa.BufferOutputStream()
    pq.write_table(data, sink)
    return bytes(sink.getvalue())


def _read_table(folder: Folder, name: str, table: str) -> pa.Table:
    try:
        rows = pq.ParquetFile(pa.BufferReader(folder.read(name))).read()
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{folder}/{name} is damaged: {_first_line(error)}.") from error
    try:
        return rows.select(SCHEMAS[table].names).cast(SCHEMAS[table])
    except (KeyError, ValueError) as error:
        raise StoreError(
            f"{folder}/{name} is no {table} table of this version: {_first_line(error)}."
        ) from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].rstrip(".")


def _read_prompts(folder: Folder) -> list[dict[str, Any]]:
    name = f"{folder}/prompts.jsonl"
    try:
        data = folder.read("prompts.jsonl")
    except FileNotFoundError:
        raise StoreError(f"the run in {folder} has no prompts.jsonl.") from None
    with read_errors_as(StoreError):
        return [prompt for _, prompt in parse_prompts(decode(data, name), name)]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _lock(path: Path) -> IO[str]:
    """Hold the directory until closed or the process ends, however it ends."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        held = hold(path / ".lock")
        try:
            hold(path / MEASURING, _STRANGER_S).close()
        except HeldError as stranger:
            held.close()
            raise StoreError(
                f"{path} is still being measured by process {stranger.pid}, left over from a run that has ended; "
                f"wait for it, or stop it with `kill -9 {stranger.pid}`."
            ) from None
    except HeldError as other:
        raise StoreError(
            f"{path} is in use by another process (pid {other.pid}); wait for it or stop it."
        ) from None
    except OSError as error:
        raise StoreError(f"{path} cannot be a run directory: {error.strerror}.") from error
    return held


def _adopt(path: Folder, config: dict[str, Any], resume: bool) -> dict[str, Any]:
    """The run.json of the run in `path`, or of a new one."""
    info = read_info(path)
    if info is None:
        return {"status": "running", "config": config}
    if not resume:
        raise StoreError(f"{path} holds a run already; choose another --out, or remove it.")
    if differing := _difference(info["config"], config):
        raise StoreError(
            f"{path} holds a run of another configuration (it differs in '{differing}'); "
            "choose another --out, or remove it."
        )
    return info


def read_info(folder: Folder) -> dict[str, Any] | None:
    """run.json, or None where there is none. Raises StoreError if it is damaged."""
    try:
        data = folder.read("run.json")
    except (FileNotFoundError, NotADirectoryError):
        return None
    with read_errors_as(StoreError):
        info = parse_json(decode(data, f"{folder}/run.json"), f"{folder}/run.json")
    if not isinstance(info, dict) or not {"status", "config"} <= info.keys():
        raise StoreError(f"{folder}/run.json is damaged: it has no status and config.")
    return info


def _difference(old: Any, new: Any, where: str = "") -> str:
    """The first key in which two configurations differ, or ""."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            place = f"{where}.{key}" if where else str(key)
            if key not in old or key not in new:
                return place
            if found := _difference(old[key], new[key], place):
                return found
        return ""
    return "" if old == new else where
