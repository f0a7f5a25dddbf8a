"""The model hub: which commit a revision is, what is cached here, and what keeps a model from us."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generators.protocol import GeneratorError

if TYPE_CHECKING:
    from generators.specs import GeneratorSpec

_INDEX = "model_index.json"
_KNOWN_FOR_S = 60.0
_known: dict[str, tuple[float, bool]] = {}  # by hub: when it was asked, and whether it answered


def reachable() -> bool:
    """Whether the hub answers at all, in the client's HF_HUB_ETAG_TIMEOUT and without its retries.

    What is to be had from the hub is then asked for with `local_files_only`, or with those retries.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    hub = constants.ENDPOINT
    asked_s, answers = _known.get(hub, (-math.inf, False))
    if time.monotonic() - asked_s > _KNOWN_FOR_S:
        answers = _answers(hub, constants.HF_HUB_ETAG_TIMEOUT)
        _known[hub] = time.monotonic(), answers
    return answers


def _answers(hub: str, within_s: float) -> bool:
    """Whether `hub` gives any HTTP answer; one that sends elsewhere (a mirror's root) is one."""
    from huggingface_hub import get_session

    answered: list[Any] = []

    def ask() -> None:
        with suppress(Exception):  # of requests or httpx, as the client's version has it
            session = get_session()
            stay: dict[str, Any] = {"follow_redirects": False} if hasattr(session, "follow_redirects") else {}
            answered.append(session.head(hub, timeout=within_s, **stay))

    # a client's timeout is for each address of the host, and none is for the name's look-up
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(within_s)
    return bool(answered)


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
