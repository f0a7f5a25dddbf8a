"""Accept a baseline: copy a checkpoint or run, write a manifest of it, and log who replaced what when."""

from __future__ import annotations

import getpass
import hashlib
import json
import math
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vhsbench.harness.common.atomic import file_sha256, room_on_disk, write_atomic
from vhsbench.harness.common.locks import hold
from vhsbench.harness.common.models import folder_sha256
from vhsbench.harness.cost.environment import git_commit
from vhsbench.harness.regress import baselines
from vhsbench.harness.regress.baselines import BaselineError, for_new
from vhsbench.harness.regress.pool import load_pool
from vhsbench.harness.regress.sources import Source, SourceError, resolve

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEPT = (".safetensors", ".json", ".jsonl", ".jinja", ".md", ".parquet", ".txt")


def accept(
    text: str,
    name: str | None = None,
    folder: Path | None = None,
    pool: Path | None = None,
    note: str = "",
    who: str | None = None,
) -> dict[str, Any]:
    """Make a checkpoint or finished run the baseline `name` (default: its verifier's name) in `folder` (default: `for_new()`).

    Records the pool that it is compared on by SHA-256 and by its path relative to `folder`, so that both may move
    together. Replaces an earlier baseline of that name in one step: an interruption leaves the old one or the new.
    Returns the manifest. Raises BaselineError, what `resolve` raises, and DiskFullError.
    """
    folder = folder or for_new()
    source = resolve(text, folder)
    name = name or source.verifier
    if not _NAME.fullmatch(name):
        raise BaselineError(
            f"'{name}' is not a valid name of a baseline; use letters, digits, '.', '_' and '-'."
        )
    origin = _origin(source)
    with room_on_disk(folder):
        (folder / name).mkdir(parents=True, exist_ok=True)
        with hold(folder / ".lock", wait_s=math.inf):
            previous = (
                baselines.read(name, folder) if (folder / name / baselines.MANIFEST).is_file() else None
            )
            if previous:
                _log(previous, folder)  # again, in case that acceptance was interrupted
            content, hashes = _add_content(origin, folder / name, previous)
            entry = {
                "name": name, "verifier": source.verifier, "from": "run" if source.run else "checkpoint",
                "source": text, "sha256": _digest(hashes), "content": content, "files": hashes, "when": _now(),
                "who": who or _user(), "note": note, "replaces": previous["sha256"] if previous else None,
                "pool": {"path": _from(folder, pool), "sha256": load_pool(pool).sha256} if pool else None,
                "commit": git_commit(origin),
                "checkpoint_sha256": None if source.run else folder_sha256(origin),
            }  # fmt: skip
            # the one step in which the old baseline becomes the new
            write_atomic(folder / name / baselines.MANIFEST, (json.dumps(entry, indent=1) + "\n").encode())
            _log(entry, folder)
            _remove_but(folder / name, content)
    return entry


def _origin(source: Source) -> Path:
    """Return the folder that holds what `source` names."""
    if source.folder is None:
        raise SourceError(f"'{source.text}' is not a folder here; download a checkpoint to accept it.")
    return source.folder


def _add_content(origin: Path, folder: Path, previous: dict[str, Any] | None) -> tuple[str, dict[str, str]]:
    """Copy `origin` into `folder` under a name that holds its hash, so that no folder in use changes."""
    work = folder / ".new"
    shutil.rmtree(work, ignore_errors=True)
    try:
        hashes = _copy(origin, work)
        content = f"content-{_digest(hashes)[:16]}"
        if previous is None or content != baselines.content_name(previous):
            shutil.rmtree(folder / content, ignore_errors=True)  # left by an interrupted acceptance
            work.rename(folder / content)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return content, hashes


def _remove_but(folder: Path, content: str) -> None:
    for other in folder.glob("content*"):
        if other.name != content and baselines.CONTENT.fullmatch(other.name):
            shutil.rmtree(other, ignore_errors=True)


def _log(entry: dict[str, Any], folder: Path) -> None:
    """Add a manifest to the log, if it is not there."""
    kept = {k: entry.get(k) for k in ("when", "who", "name", "source", "sha256", "replaces", "note")}
    if "checkpoint_sha256" in entry:  # earlier versions did not record it
        pool = entry["pool"] or {}
        kept |= {k: entry[k] for k in ("commit", "checkpoint_sha256")} | {"pool_sha256": pool.get("sha256")}
    earlier = baselines.history(folder)
    if kept not in earlier:
        lines = "".join(json.dumps(e) + "\n" for e in [*earlier, kept])
        write_atomic(folder / baselines.LOG, lines.encode())


def _copy(origin: Path, target: Path) -> dict[str, str]:
    """Copy the files of a checkpoint or run, and sync them to disk; {path: SHA-256}."""
    target.mkdir()
    hashes = {}
    for file in sorted(origin.rglob("*")):
        inside = file.relative_to(origin)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or inside.parts[0] == "shards" or not file.is_file() or file.suffix not in _KEPT:
            continue
        copy = target / inside
        copy.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "rb") as read_from, open(copy, "wb") as written:
            shutil.copyfileobj(read_from, written)
            written.flush()
            os.fsync(written.fileno())
        hashes[inside.as_posix()] = file_sha256(copy)
    return hashes


def _from(folder: Path, pool: Path) -> str:
    return Path(os.path.relpath(pool.resolve(), folder.resolve())).as_posix()


def _digest(hashes: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user, as in some containers
        return "unknown"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
