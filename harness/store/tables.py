"""A run directory: plain tables in Parquet, written in shards so that a killed process loses no finished work."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import pandas as pd
import pyarrow as pa

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.locks import HeldError, gate_of, hold
from vhsbench.harness.common.prompt_files import parse_prompts
from vhsbench.harness.common.text import decode, parse_json
from vhsbench.harness.store import parquet
from vhsbench.harness.store.folder import Folder
from vhsbench.harness.store.parquet import ORDER, SCHEMAS, StoreError, sha256

__all__ = [
    "SCHEMAS",
    "Run",
    "RunStore",
    "StoreError",
    "environments",
    "first_difference",
    "load_costs",
    "load_run",
    "read_info",
]

log = logging.getLogger(__name__)

INFO, PROMPTS = "run.json", "prompts.jsonl"
Difference = Callable[[Any, Any], str]

LOCK = ".lock"  # held by the driver
MEASURING = ".measuring"  # how files begin that processes hold which measure, and may outlive a driver
_STRANGER_S = 10.0  # that it is given to end
_KEY = re.compile(r"[A-Za-z0-9._=+@-]+")


@dataclass(frozen=True)
class Run:
    """A finished run as read; `notes` are sentences about what could not be checked."""

    path: Path
    info: dict[str, Any]
    prompts: list[dict[str, Any]]
    candidates: pd.DataFrame
    scores: pd.DataFrame
    costs: pd.DataFrame
    verdicts: pd.DataFrame
    notes: tuple[str, ...] = ()


class RunStore:
    """Write access to a run directory, for one process at a time. Use it as a context manager."""

    def __init__(
        self,
        path: Path | str,
        config: Mapping[str, Any],
        resume: bool = True,
        difference: Difference = lambda old, new: first_difference(old, new),
        beside: Sequence[str] = (),
    ) -> None:
        """Open a run (a directory or an fsspec URL), or resume it.

        Raises StoreError and changes nothing if another process holds the directory, if it has a run and `resume`
        is false, or if `difference` (of the old and the new config) names a key. A resumed run's config is written
        with the next `update`. Of a new run, an error before the first `update`, or a VhsbenchError before the first
        shard or picture, leaves nothing behind, nor the files `beside` it, by name.
        """
        self.path = path
        self.damaged: list[str] = []
        self.digests: dict[str, str] = {}  # of what was written whole, for run.json at the end
        self.folder = Folder(path)
        self.folder.check_writable()
        self._new = False  # and neither shard nor picture is written
        self._begun = False  # by an update
        self._beside = beside
        self._made: list[Path] = []
        self._lock = _lock(self.folder.local, self._made) if self.folder.local else None
        try:
            now = json.loads(json.dumps(config))
            before = _adopt(self.folder, resume, now, difference)
            self._new = before is None
            before = before or {"status": "running", "config": now}
            self.info, self.reconfigured = before | {"config": now}, before["config"] != now
            if self._new:
                self._write_info()
        except BaseException:
            self.close(refused=True)
            raise

    def __enter__(self) -> RunStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(refused=isinstance(error, VhsbenchError) or (error is not None and not self._begun))

    def close(self, refused: bool = False) -> None:
        """Release the directory; of a new run that is `refused` nothing stays."""
        if refused and self._new:
            for name in (INFO, PROMPTS, *self._beside):
                with suppress(VhsbenchError, FileNotFoundError):  # what was refused is said
                    self.folder.remove(name)
            for made in self._made:
                with suppress(OSError):  # not empty, or on Windows, where no open file is removed
                    made.rmdir() if made.is_dir() else made.unlink()
        if self._lock is not None:
            self._lock.close()

    @property
    def measuring(self) -> Path | None:
        """How the names of the files begin that processes lock while they measure for this run; None at a URL."""
        return self.folder.local / MEASURING if self.folder.local else None

    def update(self, **info: Any) -> None:
        """Merge `info` into run.json."""
        self.info |= info
        self._begun = True
        self._write_info()

    def write_prompts(self, prompts: Sequence[Mapping[str, Any]]) -> None:
        text = "".join(json.dumps(p) + "\n" for p in prompts)
        self._write_whole(PROMPTS, text.encode())

    def has(self, table: str, key: str) -> bool:
        """Return whether the shard exists and is whole; see `about`."""
        return self.about(table, key) is not None

    def about(self, table: str, key: str) -> dict[str, Any] | None:
        """Return the shard's provenance, or None if it does not exist.

        A shard that is damaged, or names another shard, is removed, logged and added to `damaged`.
        """
        file = _shard(table, key)
        if not self.folder.exists(file):
            return None
        data = self.folder.read(file)
        if self._digest(file) == sha256(data):
            with suppress(ValueError):
                said = parquet.about(data)
                if said.setdefault("shard", f"{table}/{key}") == f"{table}/{key}":
                    return said
        self.damaged.append(f"{table}/{key}")
        log.warning("%s/%s is damaged; removed, to be done again.", self.folder, file)
        self.folder.remove(file)
        return None

    def keys(self, table: str) -> set[str]:
        """List the existing shards, whole or not, by a single look at the folder."""
        return set(self.folder.names(f"shards/{table}", ".parquet"))

    def write_shard(
        self, table: str, key: str, rows: pd.DataFrame, about: Mapping[str, Any] | None = None
    ) -> None:
        """Write one shard atomically, with `about` as its provenance. Raises StoreError if the rows do not fit SCHEMAS."""
        file = _shard(table, key)
        data = parquet.encode(rows, table, {**(about or {}), "shard": f"{table}/{key}"})
        self._new = False
        # the digest first: a shard without its own digest never counts
        self.folder.write(file.removesuffix(".parquet") + ".sha256", sha256(data).encode())
        self.folder.write(file, data)

    def write_picture(self, name: str, png: bytes) -> None:
        """Write a picture, by its name within the run."""
        self._new = False
        self.folder.write(name, png)

    def read_shards(self, table: str, keys: Iterable[str]) -> pd.DataFrame:
        """Read the rows of whole shards, in the order of `keys`."""
        parts = [
            parquet.decode(self.folder.read(file), f"{self.folder}/{file}", table)
            for file in (_shard(table, key) for key in keys)
        ]
        return pa.concat_tables([SCHEMAS[table].empty_table(), *parts]).to_pandas()

    def consolidate(self, expected: Mapping[str, Sequence[str]] | None = None) -> None:
        """Write each table from its shards, in the fixed order of its rows.

        `expected` are the tables to write, with the keys that each must have; by default all, with the existing
        ones. Raises StoreError if a shard is missing or damaged (running again makes it) or a row appears twice.
        """
        for table in (t for t in SCHEMAS if expected is None or t in expected):
            there = self.keys(table)
            keys = sorted(there if expected is None else expected[table])
            if missing := [key for key in keys if key not in there]:
                raise StoreError(
                    f"{self.path} lacks {len(missing)} of its {len(keys)} shards of {table}, first {missing[0]}; "
                    "run it again to make them."
                )
            if damaged := [key for key in keys if not self.has(table, key)]:
                raise StoreError(
                    f"{self.path} had {len(damaged)} damaged shard(s), first {table}/{damaged[0]}, "
                    "now removed; run it again to redo them."
                )
            rows = self.read_shards(table, keys)
            rows = rows.sort_values(ORDER[table], kind="stable", ignore_index=True)
            if (twice := rows.duplicated(ORDER[table])).any():
                first = rows.loc[twice, ORDER[table]].iloc[0].to_dict()
                raise StoreError(f"{self.path}: a row of {table} appears twice: {first}.")
            self._write_whole(f"{table}.parquet", parquet.encode(rows, table))

    def _write_info(self) -> None:
        self.folder.write(INFO, json.dumps(self.info, indent=1).encode() + b"\n")

    def _write_whole(self, name: str, data: bytes) -> None:
        self.folder.write(name, data)
        self.digests[name] = sha256(data)

    def _digest(self, file: str) -> str:
        try:
            return self.folder.read(file.removesuffix(".parquet") + ".sha256").decode(errors="replace")
        except FileNotFoundError:
            return ""


def _shard(table: str, key: str) -> str:
    if table not in SCHEMAS or not _KEY.fullmatch(key) or key.startswith("."):
        raise StoreError(f"'{table}/{key}' is not a valid name for a shard.")
    return f"shards/{table}/{key}.parquet"


def load_run(path: Path | str) -> Run:
    """Read a finished run. Raises StoreError if there is no run, it is unfinished, or a file is missing or damaged."""
    folder, info = _finished(path)
    read = {table: _table(folder, info, table) for table in ("candidates", "scores", "costs")}
    known = "verdicts.parquet" in info.get("digests", {})
    verdicts = _table(folder, info, "verdicts") if known else _of_the_only_judge(read["candidates"])
    notes = () if "digests" in info else (_UNCHECKED.format(path),)
    return Run(Path(path), info, _read_prompts(folder, info), **read, verdicts=verdicts, notes=notes)


def _of_the_only_judge(candidates: pd.DataFrame) -> pd.DataFrame:
    """Return the verdicts of a run by an earlier version, which had one judge and kept no table of them."""
    return candidates.drop(columns="tag").assign(
        judge="geneval", value=candidates["correct"].astype("float32"), picture=""
    )[SCHEMAS["verdicts"].names]


_UNCHECKED = (
    "{} was finished by an earlier version, which kept no digests: damage to its files cannot be seen."
)


def load_costs(path: Path | str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read the costs and run.json of a finished run or cost benchmark. Raises StoreError as `load_run` does."""
    folder, info = _finished(path)
    return _table(folder, info, "costs"), info


def environments(info: Mapping[str, Any]) -> list[Any]:
    """List the environments of a run, one for each time that it was opened; earlier versions kept only the last."""
    return list(info.get("environments") or filter(None, [info.get("environment")]))


def _finished(path: Path | str) -> tuple[Folder, dict[str, Any]]:
    folder = Folder(path)
    info = read_info(folder)
    if info is None:
        raise StoreError(f"{path} is not a run directory: it has no run.json.")
    if info["status"] != "complete":
        raise StoreError(f"the run in {path} is not finished; `vhsbench run` with it as --out resumes it.")
    return folder, info


def _table(folder: Folder, info: Mapping[str, Any], table: str) -> pd.DataFrame:
    data = _read(folder, info, f"{table}.parquet")
    return parquet.decode(data, f"{folder}/{table}.parquet", table).to_pandas()


def _read(folder: Folder, info: Mapping[str, Any], name: str) -> bytes:
    """Read a file of a finished run and check it against the digest in run.json."""
    try:
        data = folder.read(name)
    except FileNotFoundError:
        raise StoreError(f"the run in {folder} has no {name}{_mend(folder, info)}.") from None
    if sha256(data) != info.get("digests", {}).get(name, sha256(data)):
        raise StoreError(
            f"{folder}/{name} is damaged: its SHA-256 is not the one in run.json{_mend(folder, info)}."
        )
    return data


def _mend(folder: Folder, info: Mapping[str, Any]) -> str:
    return f"; `vhsbench run` with --out {folder} mends it from its shards" if "digests" in info else ""


def _read_prompts(folder: Folder, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    data, name = _read(folder, info, PROMPTS), f"{folder}/{PROMPTS}"
    with read_errors_as(StoreError):
        return [prompt for _, prompt in parse_prompts(decode(data, name), name)]


def _lock(path: Path, made: list[Path]) -> IO[str]:
    """Lock the directory until the file is closed or the process ends, however it ends.

    Adds to `made` what was not there before, the innermost first.
    """
    lock = path / LOCK
    try:
        made += [at for at in (lock, gate_of(lock), path, *path.parents) if not at.exists()]
        path.mkdir(parents=True, exist_ok=True)
        held = hold(lock)
        try:
            for file in path.glob(f"{MEASURING}*"):
                hold(file, _STRANGER_S).close()
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


def _adopt(
    path: Folder, resume: bool, config: dict[str, Any], difference: Difference
) -> dict[str, Any] | None:
    """Return the run.json in `path`, which must be of this configuration; None without one."""
    info = read_info(path)
    if info is None:
        return None
    if not resume:
        raise StoreError(f"{path} holds a run already; choose another --out, or remove it.")
    if differing := difference(info["config"], config):
        raise StoreError(
            f"{path} holds a run of another configuration (it differs in '{differing}'); choose another "
            "--out, or give --redo to make again what is not of this one."
        )
    return info


def read_info(folder: Folder) -> dict[str, Any] | None:
    """Read run.json; None if there is none. Raises StoreError if it is damaged."""
    try:
        data = folder.read(INFO)
    except (FileNotFoundError, NotADirectoryError):
        return None
    with read_errors_as(StoreError):
        info = parse_json(decode(data, f"{folder}/run.json"), f"{folder}/run.json")
    if not isinstance(info, dict) or not {"status", "config"} <= info.keys():
        raise StoreError(f"{folder}/run.json is damaged: it has no status and config.")
    if not isinstance(info.get("digests", {}), dict):
        raise StoreError(f"{folder}/run.json is damaged: its digests are not an object.")
    return info


def first_difference(old: Any, new: Any, where: str = "") -> str:
    """Return the first key in which two configurations differ, or ""."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys: list[Any] = sorted({*old, *new})
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        keys = list(range(len(old)))
    else:
        return "" if old == new else where
    for key in keys:
        place = f"{where}.{key}" if where else str(key)
        if isinstance(old, Mapping) and (key not in old or key not in new):
            return place
        if found := first_difference(old[key], new[key], place):
            return found
    return ""
