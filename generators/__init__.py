"""What makes candidates: text-to-image generators behind one stage protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vhsbench.generators.protocol import Generator, GeneratorDefaults, GeneratorInfo
from vhsbench.generators.specs import SPECS
from vhsbench.harness.common.registry import Registry, RegistryError

__all__ = ["REGISTRY", "SPECS", "Registry", "RegistryError", "create", "describe", "steps_of"]

REGISTRY: Registry[Generator] = Registry(
    "generator",
    "vhsbench.generators",
    {
        "nano": "vhsbench.generators.sana:nano",
        "sana-sprint": "vhsbench.generators.sana:sana_sprint",
        "sana-1.5": "vhsbench.generators.sana:sana_1_5",
        "pixart-alpha-dmd": "vhsbench.generators.pixart:pixart_alpha_dmd",
        "flux-schnell": "vhsbench.generators.flux:flux_schnell",
        "sd3.5-turbo": "vhsbench.generators.sd3:sd3_5_turbo",
    },
    Generator,
    GeneratorDefaults,
)


def create(name: str, **options: Any) -> Generator:
    """Build the generator registered as `name`. Raises RegistryError for an unknown name."""
    return REGISTRY.create(name, **options)


def describe(name: str) -> GeneratorInfo:
    """What is known of a generator, from its spec; one without a spec (a plugin's) is built for it."""
    return SPECS[name].info() if name in SPECS else create(name).info()


def steps_of(name: str, options: Mapping[str, Any]) -> int:
    """The denoising steps of what `create(name, **options)` builds, without building it.

    One without a spec says them by its factory's default; one whose factory takes no `steps` has one.
    Raises RegistryError for an unknown name.
    """
    default = SPECS[name].steps if name in SPECS else REGISTRY.default(name, "steps")
    return int(options.get("steps") or default or 1)
