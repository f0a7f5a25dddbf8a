"""Where things are pushed to and pulled from: a repository of the hub, a URL, or a folder of this machine."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vhsbench.harness.common.settings import HUB_ID
from vhsbench.harness.sharing.kinds import Kind
from vhsbench.harness.sharing.sums import BYTES, SUMS, ShareError, Sums, parse_sums
from vhsbench.harness.store.folder import Folder, is_url

T = TypeVar("T")
Progress = Callable[[str, int, int], None]  # what, done, of how many
_WORKERS = 8  # files at a time: stores answer slowly and in parallel
_SCHEME = "hf://"
_TYPES = {"dataset": "datasets/", "model": ""}


@dataclass(frozen=True)
class Repository:
    """A repository of the hub; `hub` is its kind, "dataset" or "model"."""

    hub: str
    name: str  # owner/name
    revision: str | None = None

    def __str__(self) -> str:
        return self.name + (f"@{self.revision}" if self.revision else "")

    def folder(self) -> Folder:
        """Return its files at its revision."""
        revision = f"@{self.revision.replace('/', '%2F')}" if self.revision else ""
        return Folder(f"{_SCHEME}{_TYPES[self.hub]}{self.name}{revision}", str(self))


def place(text: str, kind: Kind) -> Repository | str:
    """Read where `kind` is: owner/name[@revision] of the hub, else a URL or a path. Raises ShareError."""
    if text.startswith(_SCHEME):
        return _repository(text.removeprefix(_SCHEME), text, kind)
    if is_url(text) or text.startswith((".", "~")) or Path(text).is_absolute():
        return str(Path(text).expanduser()) if text.startswith("~") else text
    if re.fullmatch(HUB_ID, text):
        return _repository(_TYPES[kind.hub] + text, text, kind)
    raise ShareError(
        f"'{text}' is no place: give owner/name of a hub repository, a URL, or a folder as ./{text}."
    )


def _repository(path: str, text: str, kind: Kind) -> Repository:
    prefix, _, rest = path.rpartition("datasets/") if path.startswith("datasets/") else ("", "", path)
    hub = "dataset" if path.startswith("datasets/") else "model"
    if prefix or not re.fullmatch(HUB_ID, rest):
        raise ShareError(f"'{text}' is no hub repository: give owner/name or owner/name@revision.")
    if hub != kind.hub:
        right = f"{_SCHEME}{_TYPES[kind.hub]}{rest}"
        raise ShareError(f"'{text}' is a {hub}, but a {kind.name} is shared as a {kind.hub}: {right}.")
    name, _, revision = rest.partition("@")
    return Repository(hub, name, revision or None)


def read_sums(folder: Folder) -> Sums:
    """Read the SHA256SUMS of a place. Raises ShareError, or FileNotFoundError if there is none."""
    return parse_sums(b"".join(folder.blocks(SUMS, BYTES)), f"{folder}/{SUMS}")


def in_parallel(do: Callable[[T], None], items: Iterable[T], progress: Callable[[int], None]) -> None:
    """Do something for all items, several at a time; the first error, in their order, ends it."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        futures = [pool.submit(do, item) for item in items]
        try:
            for done, future in enumerate(futures, start=1):
                future.result()
                progress(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
