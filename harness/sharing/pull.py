"""Pull a run, a pool or a checkpoint: beside the target, verified file by file, and moved into place whole."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vhsbench.harness.common.atomic import file_sha256, room_on_disk, sync, write_atomic
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.locks import HeldError, hold
from vhsbench.harness.sharing.kinds import Kind, kind_in
from vhsbench.harness.sharing.places import Progress, Repository, in_parallel, place, read_sums
from vhsbench.harness.sharing.sums import SUMS, ShareError, Sums, shared
from vhsbench.harness.store.folder import Folder
from vhsbench.harness.sweep.disk import check_room


@dataclass(frozen=True)
class Pulled:
    """What was pulled: from which place, at which commit of the hub, and the digest of its SHA256SUMS."""

    kind: str
    folder: str
    place: str
    commit: str | None
    sha256: str
    files: int


def pull(
    source: str, target: Path, kind: Kind, sha256: str | None = None, progress: Progress = lambda *_: None
) -> Pulled:
    """Pull into the new folder `target`; an interrupted pull is resumed.

    sha256: the digest that `push` gave; nothing else is then accepted. Raises VhsbenchError, naming the file, for
    what is damaged, missing or not listed; `target` is then not there.
    """
    where, commit = place(source, kind), None
    if target.exists() or target.is_symlink():
        raise ShareError(f"{target} exists already; pull into a new folder.")
    if isinstance(where, Repository):
        from vhsbench.harness.sharing.hub import answering, pinned

        with answering(where):
            where = pinned(where)
            commit = where.revision
            sums = _pull(where.folder(), target, kind, sha256, progress)
    else:
        sums = _pull(Folder(where), target, kind, sha256, progress)
    return Pulled(kind.name, str(target), str(where), commit, sums.sha256, len(sums.files))


def _pull(folder: Folder, target: Path, kind: Kind, sha256: str | None, progress: Progress) -> Sums:
    sizes = folder.sizes()
    if SUMS not in sizes:
        raise ShareError(f"{folder} has no {SUMS}: nothing was pushed there, or a push has not ended.")
    sums = read_sums(folder)
    if sha256 not in (None, sums.sha256):
        raise ShareError(f"{folder} is not what was asked for: its SHA-256 is {sums.sha256}, not {sha256}.")
    if (holds := kind_in(sums.files)) is not kind:
        said = f"a {holds.name}: use `vhsbench {holds.name} pull`" if holds else f"no {kind.name}"
        raise ShareError(f"{folder} holds {said}.")
    there = shared(sizes)
    if missing := sorted({*sums.files} - {*there}):
        raise ShareError(f"{folder} lacks the file '{missing[0]}', which its {SUMS} lists.")
    if extra := sorted({*there} - {*sums.files}):
        raise ShareError(f"{folder} has a file '{extra[0]}' that its {SUMS} does not list.")
    with _staged(target) as stage:
        need_gb = sum(sizes[name] for name in sums.files) / 1e9
        check_room(stage, need_gb, "this pull", resumes=True, elsewhere="another folder")
        _fetch(folder, stage, sums, sizes, progress)
        _check(stage, str(folder), sums, kind)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        notes = (*sums.notes, f"pulled from {folder}, {now}")
        write_atomic(stage / SUMS, Sums(sums.files, notes).data())
        if target.exists() or target.is_symlink():
            raise ShareError(f"{target} exists already; pull into a new folder.")
        stage.rename(target)
        sync(target.parent)
    return sums


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """Yield a folder beside the target, with what an interrupted pull left; this process alone has it."""
    work = target.parent / f".{target.name}.part"
    try:
        if work.is_symlink():
            raise ShareError(f"{work}, where a pull works, is a link; remove it.")
        with room_on_disk(work):
            (work / "files").mkdir(parents=True, exist_ok=True)
            with hold(work / "lock"):
                yield work / "files"
                shutil.rmtree(work)
    except HeldError as other:
        raise ShareError(
            f"{target} is being pulled by another process (pid {other.pid}); wait for it."
        ) from None
    except OSError as error:
        raise ShareError(
            f"{error.filename or work} cannot be written: {str(error.strerror).lower()}."
        ) from error


def _fetch(folder: Folder, stage: Path, sums: Sums, sizes: dict[str, int], progress: Progress) -> None:
    """Download what is not there yet, and remove what is not wanted."""
    wanted = {stage / name for name in sums.files}
    for parent, folders, names in os.walk(stage):
        for file in (Path(parent, name) for name in [*folders, *names]):
            if file.is_symlink() or (not file.is_dir() and file not in wanted):
                file.unlink()
            elif file.is_dir() and file in wanted:
                shutil.rmtree(file)

    def fetch(name: str) -> None:
        file = stage / name
        if file.is_file() and file_sha256(file) == sums.files[name]:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        try:
            with open(file, "wb") as stream:
                for block in folder.blocks(name, sizes[name]):
                    digest.update(block)
                    stream.write(block)
                stream.flush()
                os.fsync(stream.fileno())
        except FileNotFoundError:
            raise ShareError(f"{folder} lacks the file '{name}', which its {SUMS} lists.") from None
        if digest.hexdigest() != sums.files[name]:
            file.unlink()
            raise ShareError(f"{folder}/{name} is damaged: its SHA-256 is not the one in {SUMS}.")

    in_parallel(fetch, sums.files, lambda done: progress("files", done, len(sums.files)))


def _check(stage: Path, source: str, sums: Sums, kind: Kind) -> None:
    """Read what was pulled as its kind, and compare what it records of itself. Raises ShareError."""
    try:
        recorded = kind.files(stage)
    except VhsbenchError as error:
        raise ShareError(str(error).replace(str(stage), source)) from error
    for name in sorted(recorded.keys() | sums.files.keys()):
        if name not in recorded:
            raise ShareError(f"{source} has a file '{name}' that is no part of a {kind.name}.")
        if name not in sums.files:
            raise ShareError(f"{source} lacks the file '{name}', which its {kind.marker} lists.")
        if recorded[name] not in (None, sums.files[name]):
            raise ShareError(f"{source}/{name} is damaged: its SHA-256 is not the one in {kind.marker}.")
