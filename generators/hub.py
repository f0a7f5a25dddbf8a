"""The model hub: which commit a revision is, what is cached here, and what keeps a model from us."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from generators.protocol import GeneratorError

if TYPE_CHECKING:
    from generators.specs import GeneratorSpec

_INDEX = "model_index.json"
_ANSWER_S = 5.0  # in which a hub that is there answers


def reachable() -> bool:
    """Whether the hub answers at all, asked once and without the hub client's half minute of retries.

    What is to be had from the hub is then asked for with `local_files_only`, or with those retries.
    """
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_ANSWER_S)
    except Exception:  # of requests or httpx, as the client's version has it, or its offline mode
        return False
    return True


@contextmanager
def cached_if_unreachable() -> Iterator[None]:
    """For a library that asks the hub itself: where the hub does not answer, only its cache is looked at,
    and the library's log is silent, as the error says the same."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, logging.root.manager.disable
    if not reachable():
        constants.HF_HUB_OFFLINE = True
        logging.disable(logging.ERROR)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before[0]
        logging.disable(before[1])


def resolve(hub_id: str, revision: str) -> str:
    """The commit that `revision` of a hub repository is, from the hub or else from the cache."""
    from huggingface_hub import errors, hf_hub_download

    try:
        index = hf_hub_download(hub_id, _INDEX, revision=revision, local_files_only=not reachable())
    except errors.GatedRepoError as error:
        raise GeneratorError(
            f"'{hub_id}' is gated: accept its licence on the hub, then log in with 'hf auth login' or set HF_TOKEN."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise GeneratorError(f"the hub has no repository '{hub_id}', or it is private.") from error
    except errors.RevisionNotFoundError as error:
        raise GeneratorError(f"'{hub_id}' has no revision '{revision}'.") from error
    except errors.LocalEntryNotFoundError as error:
        raise GeneratorError(
            f"'{hub_id}' (revision '{revision}') is not in the hub cache and the hub cannot be reached; "
            "connect once, or give weights=<folder> or weights='random'."
        ) from error
    except errors.EntryNotFoundError as error:
        raise GeneratorError(f"'{hub_id}' is not a diffusers pipeline: no {_INDEX}.") from error
    return Path(index).parent.name


def weights_state(spec: GeneratorSpec) -> str:
    """Whether the spec's own weights are here: "ready", or what is missing."""
    if spec.hub_id is None:
        return "ready"
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(spec.hub_id, _INDEX, revision=spec.revision), str):
        return "in the hub cache"
    return "not in the hub cache: downloaded at first use; weights=random needs no download"
