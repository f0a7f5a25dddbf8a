"""The model hub: the commit of a revision, what is cached here, and why a model is not available."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhsbench.generators.protocol import GeneratorError
from vhsbench.harness.common.models import reason

if TYPE_CHECKING:
    from vhsbench.generators.specs import GeneratorSpec

_INDEX = "model_index.json"
_KNOWN_FOR_S = 60.0
_known: dict[str, tuple[float, bool]] = {}  # by hub: when we asked, and whether it answered


def reachable() -> bool:
    """Ask whether the hub answers at all, within the client's HF_HUB_ETAG_TIMEOUT and without its retries.

    If it does not, use only its cache (`local_files_only`): the client would retry for many seconds.
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
    """Ask whether `hub` gives any HTTP answer; a redirect (a mirror's root) counts."""
    from huggingface_hub import get_session

    answered: list[Any] = []

    def ask() -> None:
        with suppress(Exception):  # of requests or httpx, as the client's version has it
            session = get_session()
            stay: dict[str, Any] = {"follow_redirects": False} if hasattr(session, "follow_redirects") else {}
            answered.append(session.head(hub, timeout=within_s, **stay))

    # a client's timeout applies to each address of the host, and not to looking up its name
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(within_s)
    return bool(answered)


@contextmanager
def cached_if_unreachable() -> Iterator[None]:
    """Let a library that asks the hub itself use only the cache while the hub does not answer.

    The library's log is silent meanwhile, because the error says the same.
    """
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
    """Return the commit of a hub repository's `revision`, from the hub or else from the cache. Raises GeneratorError."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        index = hf_hub_download(hub_id, _INDEX, revision=revision, local_files_only=not reachable())
    except Exception as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise GeneratorError(f"'{hub_id}' is not a diffusers pipeline: no {_INDEX}.") from error
        said = refusal(hub_id, error, revision, "connect once, or give weights=<folder> or weights='random'")
        if said is None:
            raise
        raise GeneratorError(said) from error
    return Path(index).parent.name


def refusal(
    repository: str,
    error: BaseException,
    revision: str | None = None,
    instead: str = "give a local folder",
    doing: str = "read",
) -> str | None:
    """Explain in one sentence why the hub did not give a repository's files; None if the error has another cause.

    `instead` is what a user without the hub can do; `doing` is what may not be allowed: "read", or "write to".
    """
    from huggingface_hub import errors

    causes = list(_causes(error))  # a failed request is the cause of the client's "not in the cache"
    if _any(causes, errors.GatedRepoError):
        return (
            f"'{repository}' is gated: accept its licence on the hub, then log in with 'hf auth login' "
            "or set HF_TOKEN."
        )
    if _any(causes, errors.RevisionNotFoundError):
        named = f"revision '{revision}'" if revision else "such revision"
        return f"'{repository}' has no {named}."
    if _any(causes, errors.RepositoryNotFoundError):
        return f"the hub has no repository '{repository}', or it is private and your token may not read it."
    if _any(causes, errors.HFValidationError):
        return f"'{repository}' is not the name of a hub repository (owner/name)."
    for cause in causes:
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(status, int) and (said := _of_status(status, doing)):
            return f"'{repository}' is not available: {said}"
        if "Timeout" in type(cause).__name__:  # of httpx, requests or the system
            return (
                f"'{repository}' is not available: the hub took too long to answer; try again, or {instead}."
            )
        if any(kind.__name__ == "TransportError" for kind in type(cause).__mro__):  # of httpx
            return f"'{repository}' is not available: the connection to the hub broke off; {instead}."
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled | ConnectionError):
        at = f" (revision '{revision}')" if revision else ""
        return f"'{repository}'{at} is not in the hub cache and the hub cannot be reached; {instead}."
    return None


def _any(causes: list[BaseException], kind: type[BaseException]) -> bool:
    return any(isinstance(cause, kind) for cause in causes)


def _of_status(status: int, doing: str) -> str:
    """Explain an HTTP status of the hub; "" for one that is not a refusal."""
    if status == 401:
        return "the hub refused your token (401); log in with 'hf auth login' or set HF_TOKEN."
    if status == 403:
        return f"your token may not {doing} it (403); ask its owner, or use another token."
    if status == 404:
        return "the hub has no such file (404)."
    if status == 429:
        return "the hub takes no more requests for now (429); wait some minutes, or log in."
    if status >= 500:
        return f"the hub failed ({status}); try again later."
    return f"the hub answered with status {status}." if status >= 400 else ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it, outermost first."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def download(hub_id: str, commit: str, class_name: str) -> Path:
    """Return the snapshot folder of a pipeline at a commit; download what is not cached. Raises GeneratorError."""
    import diffusers

    try:
        return Path(
            getattr(diffusers, class_name).download(
                hub_id, revision=commit, use_safetensors=True, trust_remote_code=False,
                local_files_only=not reachable(),
            )
        )  # fmt: skip
    except (OSError, ValueError, TypeError) as error:
        unloaded = f"'{hub_id}' cannot be loaded as a {class_name}: {reason(error)}."
        raise GeneratorError(refusal(hub_id, error, commit) or unloaded) from error


def weights_state(spec: GeneratorSpec) -> str:
    """Say whether the spec's own weights are on this machine: "ready", or what is missing."""
    if spec.hub_id is None:
        return "ready"
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(spec.hub_id, _INDEX, revision=spec.revision), str):
        return "in the hub cache"
    return "not in the hub cache: downloaded at first use; weights=random needs no download"
