"""What scores candidates: a connector and an LLM that answer yes or no."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vhsbench.harness.common.registry import Registry

if TYPE_CHECKING:
    from vhsbench.verifiers.protocol import Verifier

__all__ = ["KINDS", "REGISTRY", "create"]

KINDS = ("vhs", "mllm-clip", "mllm-ae")

REGISTRY: Registry[Verifier] = Registry(
    "verifier",
    "vhsbench.verifiers",
    {kind: f"vhsbench.verifiers.loading:{kind.replace('-', '_')}" for kind in KINDS},
)


def create(name: str, **options: Any) -> Verifier:
    """Build the verifier registered as `name`. Raises RegistryError for an unknown name."""
    return REGISTRY.create(name, **options)
