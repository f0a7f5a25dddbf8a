"""What scores candidates: a connector and an LLM that answer yes or no."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from generators.registry import Registry

if TYPE_CHECKING:
    from verifiers.protocol import Verifier

__all__ = ["REGISTRY", "create"]

REGISTRY: Registry[Verifier] = Registry(
    "verifier",
    "vhsbench.verifiers",
    {
        "vhs": "verifiers.loading:create_vhs",
        "mllm-clip": "verifiers.loading:create_mllm_clip",
        "mllm-ae": "verifiers.loading:create_mllm_ae",
    },
)


def create(name: str, **options: Any) -> Verifier:
    """Build the verifier registered as `name`. Raises RegistryError for an unknown name."""
    return REGISTRY.create(name, **options)
