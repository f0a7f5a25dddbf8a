"""Model folders by local path, or by hub id with an optional revision ("owner/name@revision")."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vhsbench.generators.hub import reachable, refusal
from vhsbench.verifiers.checkpoint import CheckpointError

_HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")
_PATTERNS = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]


def is_hub_id(name: str) -> bool:
    """Tell whether `name` is owner/name[@revision]."""
    return _HUB_ID.fullmatch(name) is not None


def model_folder(name: str | Path, also: tuple[str, ...] = (), only: tuple[str, ...] | None = None) -> Path:
    """Return the folder `name`, or the local snapshot of hub id `name`, downloaded if necessary.

    Downloads configuration, tokenizer and safetensors files, and those named in `also`; or those of `only`. A
    snapshot's folder is named by its commit. Raises CheckpointError if there is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    match = _HUB_ID.fullmatch(str(name))
    if match is None:
        raise CheckpointError(f"there is no folder '{name}', and it is no hub id (owner/name[@revision]).")
    from huggingface_hub import snapshot_download

    with _one_sentence(match["repo"], match["revision"]):
        folder = snapshot_download(
            match["repo"],
            revision=match["revision"],
            allow_patterns=[*(_PATTERNS if only is None else only), *also],
            local_files_only=not reachable(),
        )
    return Path(folder)


def dataset_files(repo: str, files: tuple[str, ...], revision: str | None = None) -> list[Path]:
    """Return local copies of a hub dataset's files. Raises CheckpointError if they are not available."""
    from huggingface_hub import hf_hub_download

    with _one_sentence(repo, revision):
        where: dict[str, Any] = {"revision": revision, "local_files_only": not reachable()}
        return [Path(hf_hub_download(repo, f, repo_type="dataset", **where)) for f in files]


@contextmanager
def _one_sentence(repository: str, revision: str | None) -> Iterator[None]:
    """Turn a refusal of the hub into a CheckpointError."""
    try:
        yield
    except Exception as error:
        said = refusal(
            repository, error, revision, "download it where there is a network, or give a local folder"
        )
        if said is None:
            raise
        raise CheckpointError(said) from error
