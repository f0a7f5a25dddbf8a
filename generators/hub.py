"""The model hub: which commit a revision is, what is cached here, and what keeps a model from us."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from generators.protocol import GeneratorError

if TYPE_CHECKING:
    from generators.specs import GeneratorSpec

_INDEX = "model_index.json"


def resolve(hub_id: str, revision: str) -> str:
    """The commit that `revision` of a hub repository is, from the hub or else from the cache."""
    from huggingface_hub import errors, hf_hub_download

    try:
        index = hf_hub_download(hub_id, _INDEX, revision=revision)
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
