"""Push a run, a pool or a checkpoint: only what is whole, and SHA256SUMS last."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vhsbench.harness.common.atomic import file_sha256
from vhsbench.harness.common.files import read_blocks
from vhsbench.harness.sharing.cards import card
from vhsbench.harness.sharing.kinds import Kind
from vhsbench.harness.sharing.places import Progress, Repository, in_parallel, place, read_sums
from vhsbench.harness.sharing.sums import CARD, SUMS, ShareError, Sums, sums_of
from vhsbench.harness.store.folder import Folder, local_copy
from vhsbench.version import __version__


@dataclass(frozen=True)
class Pushed:
    """What was pushed, and where. pull: the arguments of `vhsbench` that pull exactly this."""

    kind: str
    place: str
    commit: str | None  # of the hub
    sha256: str
    files: int
    pull: list[str]


def whole_sums(folder: Path, kind: Kind) -> Sums:
    """Hash all files of a folder and compare them with what it records of itself.

    Raises VhsbenchError for one that is unfinished or damaged, naming the file.
    """
    recorded = kind.files(folder)
    sums_of(dict.fromkeys(recorded, ""), str(folder))  # names first: nothing outside the folder is opened
    found = {}
    for name, digest in recorded.items():
        if not (folder / name).is_file():
            raise ShareError(f"the {kind.name} in {folder} lacks its file '{name}'.")
        found[name] = file_sha256(folder / name)
        if digest not in (None, found[name]):
            raise ShareError(f"{folder}/{name} is damaged: its SHA-256 is not the one in {kind.marker}.")
    return sums_of(found, str(folder), (f"{kind.name}, pushed by vhsbench {__version__}",))


def push(
    source: str, destination: str, kind: Kind, progress: Progress = lambda *_: None, private: bool = False
) -> Pushed:
    """Push what is in the folder or URL `source`. Raises VhsbenchError for what is unfinished, damaged or not allowed.

    At a URL, what is there stays: a place that holds anything else than the beginning of this push is refused. On the
    hub, a push is a new commit, whose files are exactly these.
    """
    where = place(destination, kind)
    if private and not isinstance(where, Repository):
        raise ShareError(f"{where} is not on the hub, where alone --private means something.")
    with local_copy(source) as folder:
        sums = whole_sums(folder, kind)
        if isinstance(where, Repository):
            from vhsbench.harness.sharing.hub import commit

            made = commit(folder, where, sums, card(folder, kind, sums, str(where)), progress, private)
            again = [kind.name, "pull", f"{where.name}@{made}", "FOLDER"]
            return Pushed(kind.name, where.name, made, sums.sha256, len(sums.files), again)
        to = Folder(where)
        _copy(folder, to, sums, kind, progress)
    again = [kind.name, "pull", where, "FOLDER", "--sha256", sums.sha256]
    return Pushed(kind.name, where, None, sums.sha256, len(sums.files), again)


def _copy(folder: Path, to: Folder, sums: Sums, kind: Kind, progress: Progress) -> None:
    there = to.sizes()
    if SUMS in there:
        if read_sums(to) == sums:
            return
        raise ShareError(f"{to} holds another push, which stays as it is; choose another place.")
    if others := sorted({*there} - {*sums.files, CARD}):
        raise ShareError(f"{to} holds other files, first '{others[0]}'; choose an empty place.")
    to.check_writable()

    def copy(name: str) -> None:
        to.write_blocks(name, _checked(folder / name, sums.files[name]))

    in_parallel(copy, sums.files, lambda done: progress("files", done, len(sums.files)))
    to.write(CARD, card(folder, kind, sums, str(to)).encode())
    to.write(SUMS, sums.data())  # last: without it nothing was pushed


def _checked(file: Path, digest: str) -> Iterator[bytes]:
    """Yield a file's bytes. Raises ShareError at the end if they are no longer those of the digest."""
    found = hashlib.sha256()
    for block in read_blocks(file, file.stat().st_size):
        found.update(block)
        yield block
    if found.hexdigest() != digest:
        raise ShareError(f"{file} changed while it was pushed; push it again when nothing writes to it.")
