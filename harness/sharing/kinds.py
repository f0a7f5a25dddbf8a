"""What can be shared: a run, a pool, a verifier's checkpoint; which files each consists of, and whether they are whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vhsbench.harness.common.files import SMALL, check_regular, read_errors_as
from vhsbench.harness.common.locks import is_held
from vhsbench.harness.common.models import files_read, model_files
from vhsbench.harness.regress.pool import MANIFEST, load_pool
from vhsbench.harness.sharing.sums import ShareError
from vhsbench.harness.store.tables import INFO, LOCK, load_run
from vhsbench.verifiers.checkpoint import kind_of, read_card

Digests = Mapping[str, str | None]  # of files by name; None where none is recorded


@dataclass(frozen=True)
class Kind:
    """A kind of folder that is shared.

    hub: the kind of hub repository that it goes to. marker: the file by which it is recognised. files: looks at a folder
    and returns the files that it consists of, with the digests that it records; raises VhsbenchError for an unfinished
    or damaged one.
    """

    name: str
    hub: str
    marker: str
    files: Callable[[Path], Digests]


def _run_files(folder: Path) -> Digests:
    if is_held(folder / LOCK):
        raise ShareError(f"{folder} is in use by another process; push it when that has ended.")
    info = load_run(folder).info
    if "digests" not in info:
        raise ShareError(
            f"{folder} was finished by an earlier version, which kept no digests; `vhsbench run` with it as --out adds them."
        )
    return {INFO: None, **info["digests"]}


def _pool_files(folder: Path) -> Digests:
    return {MANIFEST: None, **{name: file.sha256 for name, file in load_pool(folder).manifest.files.items()}}


def _verifier_files(folder: Path) -> Digests:
    read_card(folder)
    kind_of(folder)
    with read_errors_as(ShareError):
        weights = model_files(folder)
        if not weights:
            raise ShareError(f"{folder} has no safetensors weights.")
        for file in (statistics := sorted(folder.glob("block_*.pt"))):  # for the official code
            check_regular(file)
            if file.stat().st_size > SMALL:
                raise ShareError(
                    f"{file} has {file.stat().st_size:,} bytes; statistics have at most {SMALL:,}."
                )
    names = [file.relative_to(folder).as_posix() for file in [*files_read(folder), *statistics]]
    return dict.fromkeys(names)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("run", "dataset", INFO, _run_files),
        Kind("pool", "dataset", MANIFEST, _pool_files),
        Kind("verifier", "model", "config.json", _verifier_files),
    )
}


def kind_in(names: Mapping[str, object]) -> Kind | None:
    """Recognise what a folder with these files holds."""
    return next((kind for kind in KINDS.values() if kind.marker in names), None)
