"""A directory on this machine or at any fsspec URL (s3://, gs://, memory://...) whose files are written atomically."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from vhsbench.harness.common.atomic import room_on_disk, write_atomic
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.files import LARGE, ReadError, read_blocks, read_bytes, read_errors_as
from vhsbench.harness.common.shown import first_line, one_line

_BLOCK = 1 << 24  # bytes asked for at a time


class StorageError(VhsbenchError):
    """A directory that cannot be used; the message is one sentence for a user."""


class Folder:
    """A directory; the names of its files are relative, with forward slashes.

    Errors of the system or of a store's client become a StorageError that names the file, except that a missing
    file is a FileNotFoundError.
    """

    def __init__(self, where: str | Path, shown: str | None = None) -> None:
        """Open the directory, called `shown` in errors, by default as it is given.

        Raises StorageError for a URL of an unknown kind, or whose package is not installed.
        """
        if "::" in str(where):
            raise StorageError(f"{where} is a chain of file systems; give the folder or URL that it ends in.")
        try:
            self.fs, self.root = fsspec.url_to_fs(str(where))
        except Exception as error:  # each kind of storage has errors of its own
            told = isinstance(error, (ValueError, ImportError, OSError))
            said = first_line(error) if told else "this kind of file system needs more than a URL"
            raise StorageError(f"{where} cannot be used: {said}.") from error
        self.shown = shown or str(where).rstrip("/")

    def __str__(self) -> str:
        return self.shown

    @property
    def local(self) -> Path | None:
        """The directory on this machine, or None."""
        return Path(self.root) if isinstance(self.fs, LocalFileSystem) else None

    def exists(self, name: str) -> bool:
        at = self._at(name)
        with self._telling("looked for", name):
            try:
                self.fs.info(at)  # not fs.exists, which takes every error for "not there"
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def read(self, name: str) -> bytes:
        """Read a whole file. Raises FileNotFoundError, or StorageError unless it is a regular file of at most LARGE bytes."""
        at = self._at(name)
        if self.local is None:
            with self._telling("read", name):
                return bytes(self.fs.cat_file(at))
        try:
            return read_bytes(Path(at), LARGE)
        except ReadError as error:
            if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
                raise error.__cause__ from None
            raise StorageError(str(error)) from error

    def write(self, name: str, data: bytes) -> None:
        """Write a whole file or nothing; it is on disk when this returns. Raises StorageError if the disk is full."""
        at = self._at(name)
        with self._telling("written", name):
            if self.local is None:
                self.fs.pipe_file(at, data)  # object stores put a whole object or none
                return
            with room_on_disk(self, StorageError):
                Path(at).parent.mkdir(parents=True, exist_ok=True)
                write_atomic(Path(at), data)

    def blocks(self, name: str, most: int) -> Iterator[bytes]:
        """Yield a file's bytes, block by block. Raises StorageError for more than `most`, or what is not a regular file."""
        at = self._at(name)
        with self._telling("read", name):
            if self.local is not None:
                with read_errors_as(StorageError):
                    yield from read_blocks(Path(at), most)
                return
            left = most
            with self.fs.open(at, "rb", cache_type="none") as stream:
                while block := stream.read(min(_BLOCK, left + 1)):
                    left -= len(block)
                    if left < 0:
                        raise StorageError(f"{self}/{name} has more than {most:,} bytes.")
                    yield block

    def write_blocks(self, name: str, blocks: Iterable[bytes]) -> None:
        """Write a file block by block, not atomically. Raises StorageError if the disk is full."""
        at = self._at(name)
        with self._telling("written", name), room_on_disk(self, StorageError):
            if self.local is not None:
                Path(at).parent.mkdir(parents=True, exist_ok=True)
            with self.fs.open(at, mode="wb") as stream:
                for block in blocks:
                    stream.write(block)

    def check_writable(self) -> None:
        """Try a remote directory by writing, reading and removing a small file. Raises StorageError."""
        if self.local is not None:
            return
        name, data = f".vhsbench-{uuid.uuid4().hex}", b"may be removed"
        try:
            self.write(name, data)
            kept = self.read(name) == data
            self.remove(name)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StorageError(f"{self} cannot be written to: {one_line(error)}.") from error
        if not kept:
            raise StorageError(f"{self} does not keep what is written to it.")

    def remove(self, name: str) -> None:
        at = self._at(name)
        with self._telling("removed", name):
            self.fs.rm_file(at)

    def files(self) -> list[str]:
        """List the paths of all files below, as the store names them."""
        with self._telling("listed", ""):
            return [str(at) for at in self.fs.find(self.root)]

    def sizes(self) -> dict[str, int]:
        """List all files below by name, with their bytes; a missing folder has none.

        Raises StorageError where the store does not say how many.
        """
        self.fs.invalidate_cache()
        with self._telling("listed", ""):
            try:
                found = self.fs.find(self.root, detail=True)
            except FileNotFoundError as error:
                if error.__cause__ is not None:  # such as a repository that the hub does not have
                    raise StorageError(f"{self} cannot be listed: {one_line(error)}.") from error
                return {}
        below = f"{self.root.rstrip('/')}/"
        files: dict[str, int] = {}
        for at, info in found.items():
            if not str(at).endswith("/"):
                if info.get("size") is None:
                    raise StorageError(f"{self} does not say how many bytes '{at}' has.")
                files[str(at).removeprefix(below)] = int(info["size"])
        return files

    def names(self, under: str, suffix: str) -> list[str]:
        """List the files directly in `under` that end in `suffix`: their sorted names without it; hidden files are skipped."""
        at = self._at(under)
        self.fs.invalidate_cache(at)
        with self._telling("listed", under):
            try:
                found = [str(file).rsplit("/", 1)[-1] for file in self.fs.ls(at, detail=False)]
            except FileNotFoundError:
                return []
        return sorted(n.removesuffix(suffix) for n in found if n.endswith(suffix) and not n.startswith("."))

    def _at(self, name: str) -> str:
        if name.startswith("/") or ".." in name.split("/"):
            raise StorageError(f"'{name}' would leave {self}.")
        return f"{self.root.rstrip('/')}/{name}"

    @contextmanager
    def _telling(self, doing: str, name: str) -> Iterator[None]:
        try:
            yield
        except (VhsbenchError, FileNotFoundError, NotADirectoryError):
            raise
        except Exception as error:  # a store's client has errors of its own
            if self.local is not None and not isinstance(error, OSError):
                raise
            reason = getattr(error, "strerror", None) or one_line(error)
            raise StorageError(f"{self}/{name} cannot be {doing}: {reason.rstrip('.')}.") from error


def check_lasting(where: str | Path) -> None:
    """Raise StorageError for a URL whose files are lost when the process ends."""
    if str(where).startswith("memory:"):
        raise StorageError(
            f"{where} is in this process's memory and would be lost with it; give a folder or another URL."
        )


@contextmanager
def local_copy(where: str | Path) -> Iterator[Path]:
    """Yield the directory itself if it is local, else a temporary copy without shards.

    At the end, upload the files that are new or changed.
    """
    folder = Folder(where)
    if folder.local is not None:
        yield folder.local
        return
    with tempfile.TemporaryDirectory(prefix="vhsbench-") as temporary:
        copy = Path(temporary)
        for at in folder.files():
            name = str(at).removeprefix(folder.root.rstrip("/") + "/")
            if name.startswith("shards/"):
                continue
            target = copy / name
            if not target.resolve().is_relative_to(copy.resolve()):
                raise StorageError(f"'{name}' would leave {folder}.")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(folder.read(name))
        before = _times(copy)
        yield copy
        _put(copy, folder, before)


@contextmanager
def local_output(where: str | Path) -> Iterator[Path]:
    """Yield a local folder to write into: `where` itself, or a temporary one whose files are uploaded at the end.

    Raises StorageError at once for a URL that cannot be written to, or whose files are lost when the process ends.
    """
    if not is_url(where):
        yield Path(where)
        return
    check_lasting(where)
    folder = Folder(where)
    if folder.local is not None:
        yield folder.local
        return
    folder.check_writable()
    with tempfile.TemporaryDirectory(prefix="vhsbench-") as temporary:
        yield Path(temporary)
        _put(Path(temporary), folder, {})


def is_url(where: str | Path) -> bool:
    """Return whether `where` is a URL, not a local path."""
    return "://" in str(where)


def _put(copy: Path, folder: Folder, before: dict[str, int]) -> None:
    """Upload the files that are new or changed since `before`."""
    for name, time in _times(copy).items():
        if before.get(name) != time:
            folder.write(name, (copy / name).read_bytes())


def _times(folder: Path) -> dict[str, int]:
    return {f.relative_to(folder).as_posix(): f.stat().st_mtime_ns for f in folder.rglob("*") if f.is_file()}
