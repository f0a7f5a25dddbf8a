"""Accepted baselines, read and verified; `accept` makes them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import vhsbench
from vhsbench.harness.common.atomic import file_sha256
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.text import read_json_lines, read_json_object
from vhsbench.harness.regress.pool import Pool, load_pool

BASELINES = Path("results/baselines")
_CHECKOUT = Path(vhsbench.__file__).resolve().parents[1]
LOG, MANIFEST = "log.jsonl", "manifest.json"
CONTENT = re.compile(r"content(-[0-9a-f]+)?")  # the folder of a baseline's files, beside its manifest


class BaselineError(VhsbenchError):
    """A baseline that cannot be used or accepted; the message is one sentence for a user."""


def found() -> Path:
    """Return the folder of accepted baselines of the working directory's project; else that of the package's checkout.

    The project's is the nearest `results/baselines` in the working directory or above it, within its git repository.
    Where there is none at all, it is the one that the working directory would have.
    """
    return _of_project() or (_CHECKOUT / BASELINES if (_CHECKOUT / BASELINES).is_dir() else BASELINES)


def for_new() -> Path:
    """Return the folder that accepts a baseline: as `found`, but never the package's own from elsewhere."""
    return _of_project() or BASELINES


def _of_project() -> Path | None:
    if BASELINES.is_dir():
        return BASELINES  # relative, as messages name it
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / BASELINES).is_dir():
            return folder / BASELINES
        if (folder / ".git").exists():
            break
    return None


def accepted_names(folder: Path = BASELINES) -> list[str]:
    """Return the names of the baselines in a folder."""
    return sorted(f.parent.name for f in folder.glob(f"[!.]*/{MANIFEST}"))


def read(name: str, folder: Path = BASELINES) -> dict[str, Any]:
    """Read a baseline's manifest and verify its files. Raises BaselineError if it is missing or damaged."""
    entry = _manifest(name, folder)
    while wrong := _damaged(entry, folder / name):
        now = _manifest(name, folder)
        if now == entry:
            raise BaselineError(
                f"baseline '{name}': {wrong} is missing or has changed since it was accepted."
            )
        entry = now  # replaced while it was read
    return entry


def content_of(name: str, folder: Path = BASELINES) -> Path:
    """Return the folder of a baseline's checkpoint or run, verified. Raises BaselineError as `read`."""
    return folder / name / content_name(read(name, folder))


def pool_of(name: str, folder: Path = BASELINES) -> Pool | None:
    """Return the pool that a baseline was accepted with; None if it has none, or `name` is not a baseline.

    Raises BaselineError if its place now holds another pool.
    """
    if name not in accepted_names(folder):
        return None
    recorded = read(name, folder)["pool"]
    if recorded is None:
        return None
    pool = load_pool(Path(os.path.normpath(folder / recorded["path"])))
    if pool.sha256 != recorded["sha256"]:
        raise BaselineError(
            f"baseline '{name}' was accepted on another pool than the one now in {pool.path}; give --pool."
        )
    return pool


def listing(folder: Path = BASELINES) -> list[dict[str, Any]]:
    """Return the manifests of all baselines, verified, without their lists of files."""
    return [{k: v for k, v in read(n, folder).items() if k != "files"} for n in accepted_names(folder)]


def history(folder: Path = BASELINES) -> list[dict[str, Any]]:
    """Return the log, oldest first."""
    file = folder / LOG
    with read_errors_as(BaselineError):
        return [entry for _, entry in read_json_lines(file)] if file.is_file() else []


def _manifest(name: str, folder: Path) -> dict[str, Any]:
    file = folder / name / MANIFEST
    if not file.is_file():
        raise BaselineError(f"there is no baseline '{name}' in {folder}.")
    with read_errors_as(BaselineError):
        entry = read_json_object(file)
    try:
        dict(entry["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise BaselineError(f"{file} is damaged: {error}.") from None
    if not CONTENT.fullmatch(content_name(entry)):
        raise BaselineError(f"{file} is damaged: its 'content' does not name a folder beside it.")
    return entry


def content_name(entry: dict[str, Any]) -> str:
    """Return the name of the folder that holds a baseline's files, beside its manifest."""
    return str(entry.get("content", "content"))  # its name before it held a hash


def _damaged(entry: dict[str, Any], folder: Path) -> Path | None:
    """Return the first file that is missing or has changed since it was accepted."""
    content = folder / content_name(entry)
    found = {f.relative_to(content).as_posix(): f for f in content.rglob("*") if f.is_file()}
    for path, digest in entry["files"].items():
        try:
            if path in found and file_sha256(found[path]) == digest:
                continue
        except FileNotFoundError:  # removed just now
            pass
        return content / path
    return None
