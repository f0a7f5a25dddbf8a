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
    """Describe a generator from its spec; one without a spec (a plugin's) is built first."""
    return SPECS[name].info() if name in SPECS else create(name).info()


def steps_of(name: str, options: Mapping[str, Any]) -> int:
    """Return how many denoising steps the generator of `create(name, **options)` takes, without building it.

    Without a spec, that is the default of its factory's `steps`, or 1 if the factory takes no such option.
    Raises RegistryError for an unknown name.
    """
    default = SPECS[name].steps if name in SPECS else REGISTRY.default(name, "steps")
    return int(options.get("steps") or default or 1)
