"""A run directory: plain tables in Parquet, written shard by shard so that a kill loses nothing."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

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
    "costs": ["generator", "steps", "verifier", "variant", "stage", "n", "batch", "repeat"],
}
_KEY = re.compile(r"[A-Za-z0-9._=+-]+")


class StoreError(ValueError):
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

    def __init__(self, path: Path, config: Mapping[str, Any], resume: bool = True) -> None:
        """Open a run, or resume it. Raises StoreError, and changes nothing, if another process has
        it, if it is of another config, or if there is one and `resume` is false."""
        self.path = path
        self.damaged: list[str] = []
        self._lock = _lock(path)
        try:
            self.info = _adopt(path, json.loads(json.dumps(config)), resume)
            self.update(status=self.info["status"])
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> RunStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def update(self, **info: Any) -> None:
        """Merge into run.json."""
        self.info |= info
        write_atomic(self.path / "run.json", json.dumps(self.info, indent=1).encode() + b"\n")

    def write_prompts(self, prompts: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(p) + "\n" for p in prompts)
        write_atomic(self.path / "prompts.jsonl", text.encode())

    def has(self, table: str, key: str) -> bool:
        """Whether the shard is there and whole; a damaged one is removed, logged and put in `damaged`."""
        file = self._shard(table, key)
        if not file.exists():
            return False
        digest = file.with_suffix(".sha256")
        if digest.exists() and digest.read_text() == _sha256(file.read_bytes()):
            return True
        self.damaged.append(f"{table}/{key}")
        log.warning("%s is damaged; removed, to be done again.", file)
        file.unlink()
        return False

    def write_shard(self, table: str, key: str, rows: pd.DataFrame) -> None:
        """Write one shard, whole or not at all. Raises StoreError if the rows do not fit SCHEMAS."""
        data = _parquet(rows, table)
        file = self._shard(table, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        # the digest first: a shard without its own digest never counts
        write_atomic(file.with_suffix(".sha256"), _sha256(data).encode())
        write_atomic(file, data)

    def consolidate(self) -> None:
        """Write each table whole, in one fixed order of rows, from its shards.

        Raises StoreError if a shard is damaged (a restart redoes it) or a row is there twice.
        """
        for table, schema in SCHEMAS.items():
            keys = sorted(f.stem for f in (self.path / "shards" / table).glob("*.parquet"))
            if damaged := [key for key in keys if not self.has(table, key)]:
                raise StoreError(
                    f"{self.path} had {len(damaged)} damaged shard(s), first {table}/{damaged[0]}, "
                    "now removed; run it again to redo them."
                )
            parts = [_read_table(self._shard(table, key), table) for key in keys]
            rows = pa.concat_tables([schema.empty_table(), *parts]).to_pandas()
            rows = rows.sort_values(_ORDER[table], kind="stable", ignore_index=True)
            if (twice := rows.duplicated(_ORDER[table])).any():
                first = rows.loc[twice, _ORDER[table]].iloc[0].to_dict()
                raise StoreError(f"{self.path}: a row of {table} is there twice: {first}.")
            write_atomic(self.path / f"{table}.parquet", _parquet(rows, table))

    def _shard(self, table: str, key: str) -> Path:
        if table not in SCHEMAS or not _KEY.fullmatch(key) or key.startswith("."):
            raise StoreError(f"'{table}/{key}' is no name for a shard.")
        return self.path / "shards" / table / f"{key}.parquet"


def load_run(path: Path) -> Run:
    """Read a finished run. Raises StoreError if it is none, unfinished, or a file is missing or damaged."""
    info = _read_info(path)
    if info is None:
        raise StoreError(f"{path} is not a run directory: it has no run.json.")
    if info["status"] != "complete":
        raise StoreError(f"the run in {path} is not finished; `vhsbench run` with it as --out resumes it.")
    tables = {}
    for table in SCHEMAS:
        file = path / f"{table}.parquet"
        if not file.exists():
            raise StoreError(f"the run in {path} has no {table}.parquet.")
        tables[table] = _read_table(file, table).to_pandas()
    return Run(path, info, _read_prompts(path), **tables)


def write_atomic(file: Path, data: bytes) -> None:
    """The whole file or none of it, on disk when this returns."""
    temporary = file.with_name(f".{file.name}.tmp")
    with open(temporary, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


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


def _read_table(file: Path, table: str) -> pa.Table:
    try:
        with pq.ParquetFile(file) as parquet:
            rows = parquet.read()
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{file} is damaged: {error}.") from error
    try:
        return rows.select(SCHEMAS[table].names).cast(SCHEMAS[table])
    except (KeyError, ValueError) as error:
        raise StoreError(f"{file} is no {table} table of this version: {error}.") from error


def _read_prompts(path: Path) -> list[dict[str, Any]]:
    file = path / "prompts.jsonl"
    try:
        return [json.loads(line) for line in file.read_text().splitlines()]
    except FileNotFoundError:
        raise StoreError(f"the run in {path} has no prompts.jsonl.") from None
    except ValueError as error:
        raise StoreError(f"{file} is damaged: {error}.") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _lock(path: Path) -> IO[str]:
    """Hold the directory until closed or the process ends, however it ends."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        stream = open(path / ".lock", "a+")  # noqa: SIM115 - held as long as the store
    except OSError as error:
        raise StoreError(f"{path} cannot be a run directory: {error.strerror}.") from error
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        holder = stream.read().strip() or "unknown"
        stream.close()
        raise StoreError(
            f"{path} is in use by another process (pid {holder}); wait for it or stop it."
        ) from None
    stream.truncate(0)
    stream.write(str(os.getpid()))
    stream.flush()
    return stream


def _adopt(path: Path, config: dict[str, Any], resume: bool) -> dict[str, Any]:
    """The run.json of the run in `path`, or of a new one."""
    info = _read_info(path)
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


def _read_info(path: Path) -> dict[str, Any] | None:
    file = path / "run.json"
    if not file.exists():
        return None
    try:
        info = json.loads(file.read_text())
    except ValueError as error:
        raise StoreError(f"{file} is damaged: {error}.") from error
    if not isinstance(info, dict) or not {"status", "config"} <= info.keys():
        raise StoreError(f"{file} is damaged: it has no status and config.")
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
