"""A run directory: plain tables in Parquet, written shard by shard so that a kill loses nothing."""

from __future__ import annotations

import fcntl
import hashlib
import json
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

_S, _F = pa.string(), pa.float64()
_CANDIDATE = [
    ("generator", _S), ("steps", pa.int32()), ("prompt_id", pa.int32()), ("seed", pa.int64()),
    ("index", pa.int32()),
]  # fmt: skip
SCHEMAS: dict[str, pa.Schema] = {
    "candidates": pa.schema([*_CANDIDATE, ("tag", _S), ("correct", pa.bool_()), ("reason", _S)]),
    "scores": pa.schema(
        [*_CANDIDATE, ("verifier", _S), ("p_yes", pa.float32()), ("p_no", pa.float32()),
         ("score", pa.float32())]
    ),
    "costs": pa.schema(
        [("generator", _S), ("steps", pa.int32()), ("verifier", _S), ("stage", _S),
         ("n", pa.int32()), ("batch", pa.int32()), ("repeat", pa.int32()), ("wall_ms", _F),
         ("tflop", _F), ("peak_vram_gb", _F), ("peak_rss_gb", _F), ("device", _S)]
    ),
}  # fmt: skip
_ORDER = {
    "candidates": ["generator", "steps", "prompt_id", "seed", "index"],
    "scores": ["generator", "steps", "verifier", "prompt_id", "seed", "index"],
    "costs": ["generator", "steps", "verifier", "stage", "n", "batch", "repeat"],
}
_KEY = re.compile(r"[A-Za-z0-9._=-]+")


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

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        """Open or resume. Raises StoreError if the run is of another config or another process has it."""
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(path)
        self.damaged: list[str] = []
        self.info = _read_info(path) or {"status": "running", "config": dict(config)}
        differing = _difference(self.info["config"], json.loads(json.dumps(config)))
        if differing:
            self._lock.close()
            raise StoreError(
                f"{path} holds a run of another configuration (it differs in '{differing}'); "
                "choose another --out, or remove it."
            )
        self.update(status=self.info["status"])

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
        """Whether the shard is there and whole; a damaged one is removed and named in `damaged`."""
        file = self._shard(table, key)
        if not file.exists():
            return False
        digest = file.with_suffix(".sha256")
        if digest.exists() and digest.read_text() == _sha256(file.read_bytes()):
            return True
        self.damaged.append(f"{table}/{key}")
        file.unlink()
        return False

    def write_shard(self, table: str, key: str, rows: pd.DataFrame) -> None:
        """Write one shard; it counts only once its digest is there too."""
        data = _parquet(rows, table)
        file = self._shard(table, key)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file.with_suffix(".sha256"), _sha256(data).encode())
        write_atomic(file, data)

    def consolidate(self) -> None:
        """Write each table whole, in one fixed order of rows, from its shards."""
        for table, schema in SCHEMAS.items():
            files = sorted((self.path / "shards" / table).glob("*.parquet"))
            parts = [pq.read_table(f, schema=schema).to_pandas() for f in files]
            rows = pd.concat(parts) if parts else schema.empty_table().to_pandas()
            rows = rows.sort_values(_ORDER[table], kind="stable", ignore_index=True)
            write_atomic(self.path / f"{table}.parquet", _parquet(rows, table))

    def _shard(self, table: str, key: str) -> Path:
        if table not in SCHEMAS or not _KEY.fullmatch(key) or key.startswith("."):
            raise StoreError(f"'{table}/{key}' is no name for a shard.")
        return self.path / "shards" / table / f"{key}.parquet"


def load_run(path: Path) -> Run:
    """Read a finished run. Raises StoreError if there is none, it is unfinished, or a table is missing."""
    info = _read_info(path)
    if info is None:
        raise StoreError(f"{path} is not a run directory: it has no run.json.")
    if info["status"] != "complete":
        raise StoreError(f"the run in {path} is not finished; `vhsbench run` with it as --out resumes it.")
    tables = {}
    for table, schema in SCHEMAS.items():
        file = path / f"{table}.parquet"
        if not file.exists():
            raise StoreError(f"the run in {path} has no {table}.parquet.")
        try:
            tables[table] = pq.read_table(file, schema=schema).to_pandas()
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"{file} is damaged: {error}.") from error
    lines = (path / "prompts.jsonl").read_text().splitlines()
    return Run(path, info, [json.loads(line) for line in lines], **tables)


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
    sink = pa.BufferOutputStream()
    schema = SCHEMAS[table]
    pq.write_table(pa.Table.from_pandas(rows[schema.names], schema, preserve_index=False), sink)
    return bytes(sink.getvalue())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _lock(path: Path) -> IO[str]:
    """Hold the directory until closed or the process ends, however it ends."""
    stream = open(path / ".lock", "a+")  # noqa: SIM115 - held as long as the store
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
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


def _read_info(path: Path) -> dict[str, Any] | None:
    file = path / "run.json"
    if not file.exists():
        return None
    try:
        info: dict[str, Any] = json.loads(file.read_text())
    except json.JSONDecodeError as error:
        raise StoreError(f"{file} is damaged: {error}.") from error
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
