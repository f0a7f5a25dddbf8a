"""What scores candidates: a connector and an LLM that answer yes or no, or a published score of an image and its text."""

from __future__ import annotations

from typing import Any, get_args

from vhsbench.harness.common.registry import Registry, RegistryError
from vhsbench.verifiers.protocol import Needs, Verifier, VerifierDefaults, VerifierInfo

__all__ = ["KINDS", "REGISTRY", "SCORERS", "create", "describe"]

KINDS = ("vhs", "mllm-clip", "mllm-ae")
SCORERS = ("clip-score", "pick-score", "hps-v2", "image-reward", "vqa-score", "soft-tifa")

REGISTRY: Registry[Verifier] = Registry(
    "verifier",
    "vhsbench.verifiers",
    {kind: f"vhsbench.verifiers.loading:{kind.replace('-', '_')}" for kind in KINDS}
    | {name: f"vhsbench.verifiers.scorers.loading:{name.replace('-', '_')}" for name in SCORERS},
    Verifier,
    VerifierDefaults,
)


def create(name: str, **options: Any) -> Verifier:
    """Build the verifier registered as `name`. Raises RegistryError for an unknown name, or what is no Verifier."""
    made = REGISTRY.create(name, **options)
    if made.needs not in get_args(Needs):
        raise RegistryError(
            f"verifier '{name}' needs {made.needs!r}, not {' or '.join(map(repr, get_args(Needs)))}."
        )
    if (made.block is None) == (made.needs == "hidden"):
        raise RegistryError(
            f"verifier '{name}' needs '{made.needs}' and has block {made.block}; one of hidden states has a block, "
            "another has None."
        )
    return made


def describe(name: str) -> VerifierInfo:
    """Return what is known of the verifier registered as `name`; a published scorer is not downloaded for it."""
    known = getattr(REGISTRY.get(name), "describe", None)
    return create(name).info() if known is None else known()
