"""The Hugging Face hub: which commit is pulled, and a push as a commit of exactly the files that SHA256SUMS lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from vhsbench.generators.hub import reachable, refusal
from vhsbench.harness.common.shown import printable
from vhsbench.harness.sharing.places import Progress, Repository, read_sums
from vhsbench.harness.sharing.sums import CARD, SUMS, ShareError, Sums, shared

_MOST = 20_000  # files of one commit; the hub takes 25,000
_CHANGED = 412  # HTTP: precondition failed


@contextmanager
def answering(repository: Repository, doing: str = "read") -> Iterator[None]:
    """Turn the hub's refusals, and a hub that cannot be reached, into a ShareError."""
    if not reachable():
        raise ShareError(
            f"the hub cannot be reached for '{repository}'; connect (without HF_HUB_OFFLINE), or use a URL or folder."
        )
    try:
        yield
    except ShareError:
        raise
    except Exception as error:  # the client's, and through fsspec a StorageError whose cause is one
        said = refusal(repository.name, error, repository.revision, "run the same command to go on", doing)
        if said is None:
            raise
        raise ShareError(said) from error


def pinned(repository: Repository) -> Repository:
    """Return the repository at the commit that its revision is now."""
    from huggingface_hub import HfApi

    info = HfApi().repo_info(repository.name, repo_type=repository.hub, revision=repository.revision)
    return replace(repository, revision=info.sha)


def commit(
    folder: Path, repository: Repository, sums: Sums, card: str, progress: Progress, private: bool
) -> str:
    """Make the repository, if it is not there, hold exactly the files of `sums`, and return the commit.

    Nothing shows before all files are uploaded; those that the hub has are not uploaded again, so an interrupted push
    goes on. More than 20,000 files take several commits, of which the last alone has the new SHA256SUMS.
    Raises ShareError for a refusal of the hub, and for a repository that holds other files.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if repository.revision:
        raise ShareError(f"a push makes a new commit of main; leave out '@{repository.revision}'.")
    with answering(repository, "write to"):
        api = HfApi()
        where: dict[str, Any] = {"repo_id": repository.name, "repo_type": repository.hub}
        api.create_repo(**where, private=private or None, exist_ok=True)
        head: Any = api.repo_info(**where)
        if private and not head.private:
            raise ShareError(
                f"'{repository}' is there and public; leave out --private, or choose another name."
            )
        stale = _stale(replace(repository, revision=head.sha), sums)
        additions = [_addition(CommitOperationAdd, folder, name, sums) for name in sums.files]
        last = [
            CommitOperationAdd(CARD, card.encode()),
            CommitOperationAdd(SUMS, sums.data()),
            *(CommitOperationDelete(name) for name in stale),
        ]
        parts: list[list[Any]] = [additions[at : at + _MOST] for at in range(0, len(additions), _MOST)]
        parts[-1] += last
        at = head.sha
        for done, part in enumerate(parts):
            progress("commits", done, len(parts))
            try:
                at = api.create_commit(
                    **where, operations=part, parent_commit=at, commit_message="vhsbench push"
                ).oid
            except HfHubHTTPError as error:
                if error.response.status_code == _CHANGED:
                    raise ShareError(
                        f"'{repository}' got another commit while this was pushed; push again."
                    ) from error
                raise
            except ValueError as error:  # what the hub says of large files, or of the card
                said = printable(" ".join(str(error).split())).rstrip(".")
                raise ShareError(f"the hub did not take the push to '{repository}': {said}.") from error
        progress("commits", len(parts), len(parts))
    return str(at)


def _stale(head: Repository, sums: Sums) -> list[str]:
    """List the files of an earlier push that this one does not have. Raises ShareError if there are others."""
    folder = head.folder()
    there = folder.sizes()
    before = read_sums(folder).files if SUMS in there else {}
    gone = [name for name in shared(there) if name not in sums.files]
    if others := [name for name in gone if name not in before]:
        raise ShareError(
            f"'{head.name}' holds files that no push put there, first '{others[0]}'; choose a repository of its own."
        )
    return gone


def _addition(kind: Any, folder: Path, name: str, sums: Sums) -> Any:
    addition = kind(name, folder / name)
    if addition.upload_info.sha256.hex() != sums.files[name]:
        raise ShareError(
            f"{folder / name} changed while it was pushed; push it again when nothing writes to it."
        )
    return addition
