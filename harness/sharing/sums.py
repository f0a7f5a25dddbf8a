"""SHA256SUMS: all files of what is shared with their digests, as `sha256sum -c` reads it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import read_errors_as
from vhsbench.harness.common.limits import MOST
from vhsbench.harness.common.shown import printable
from vhsbench.harness.common.text import decode, lines

SUMS = "SHA256SUMS"
CARD = "README.md"
BYTES = 256 << 20  # of SHA256SUMS
_APART = (SUMS, CARD, ".gitattributes")  # files of the place, not of what is shared
_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_LONGEST_NAME, _LONGEST_PART = 1000, 255


class ShareError(VhsbenchError):
    """Something that cannot be pushed or pulled; the message is one sentence for a user."""


@dataclass(frozen=True)
class Sums:
    """The SHA-256 of each file by its name, in order of names; `notes` are lines of comment above them."""

    files: Mapping[str, str]
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def sha256(self) -> str:
        """The digest of the lines without the notes: it identifies all that is shared."""
        return hashlib.sha256(self._lines().encode()).hexdigest()

    def data(self) -> bytes:
        return "".join(f"# {printable(note)}\n" for note in self.notes).encode() + self._lines().encode()

    def _lines(self) -> str:
        return "".join(f"{digest}  {name}\n" for name, digest in self.files.items())


def sums_of(files: Mapping[str, str], where: str, notes: tuple[str, ...] = ()) -> Sums:
    """Make the sums of files by name. Raises ShareError for a name that is no plain path below a folder.

    `where` says in errors who names it.
    """
    if not files:
        raise ShareError(f"{where} lists no files.")
    if len(files) > MOST:
        raise ShareError(f"{where} lists {len(files):,} files; at most {MOST:,} are shared.")
    for name in files:
        _check_name(name, files, where)
    return Sums(dict(sorted(files.items())), notes)


def parse_sums(data: bytes, where: str) -> Sums:
    """Read SHA256SUMS, named `where` in errors. Raises ShareError with the line that is wrong."""
    files: dict[str, str] = {}
    notes = []
    with read_errors_as(ShareError):
        found = lines(decode(data, where))
    for number, line in found:
        if line.startswith("#"):
            notes.append(line.removeprefix("#").strip())
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ShareError(f"{where}, line {number}, is not a SHA-256, two spaces and the name of a file.")
        if match[2] in files:
            raise ShareError(f"{where}, line {number}, names '{printable(match[2])}' a second time.")
        files[match[2]] = match[1]
    return sums_of(files, where, tuple(notes))


def shared(names: Iterable[str]) -> list[str]:
    """Leave out what belongs to the place: SHA256SUMS, the card, and the hub's own file."""
    return sorted(name for name in names if name not in _APART)


def _check_name(name: str, files: Mapping[str, str], where: str) -> None:
    parts = name.split("/")
    plain = (
        name not in _APART
        and "\\" not in name
        and name == printable(name)
        and len(name) <= _LONGEST_NAME
        and all(part and not part.startswith(".") for part in parts)
        and all(len(part.encode()) <= _LONGEST_PART for part in parts)
    )
    if not plain:
        raise ShareError(f"{where} names '{printable(name)}', which is not a plain path inside the folder.")
    for parent in PurePosixPath(name).parents:
        if str(parent) in files:
            raise ShareError(f"{where} names '{parent}' as a file, and as the folder of '{name}'.")
