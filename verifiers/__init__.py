"""What scores candidates: a connector and an LLM that answer yes or no."""

from __future__ import annotations

from typing import Any, get_args

from vhsbench.harness.common.registry import Registry, RegistryError
from vhsbench.verifiers.protocol import Needs, Verifier, VerifierDefaults

__all__ = ["KINDS", "REGISTRY", "create"]

KINDS = ("vhs", "mllm-clip", "mllm-ae")

REGISTRY: Registry[Verifier] = Registry(
    "verifier",
    "vhsbench.verifiers",
    {kind: f"vhsbench.verifiers.loading:{kind.replace('-', '_')}" for kind in KINDS},
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
