"""Suites of prompts: each with who judges its images and how its scores add up; other packages may register more."""

from __future__ import annotations

from typing import Any

from vhsbench.harness.common.registry import Registry
from vhsbench.harness.suites.base import Metadata, Placed, Suite, SuiteError, in_turn

__all__ = ["REGISTRY", "Metadata", "Placed", "Suite", "SuiteError", "create", "in_turn"]

REGISTRY: Registry[Suite] = Registry(
    "suite",
    "vhsbench.suites",
    {
        "drawbench": "vhsbench.harness.suites.lists:drawbench",
        "dpg-bench": "vhsbench.harness.suites.asked:dpg_bench",
        "geneval": "vhsbench.harness.suites.objects:geneval",
        "geneval2": "vhsbench.harness.suites.asked:geneval2",
        "nano": "vhsbench.harness.suites.objects:nano",
        "nano-composed": "vhsbench.harness.suites.objects:nano_composed",
        "own": "vhsbench.harness.suites.lists:own",
        "partiprompts": "vhsbench.harness.suites.lists:partiprompts",
        "t2i-compbench": "vhsbench.harness.suites.lists:t2i_compbench",
    },
    Suite,
)


def create(name: str, path: str | None = None, **options: Any) -> Suite:
    """Make the suite registered as `name`; `path` is the user's own copy of what does not come with the package.

    Raises RegistryError for an unknown name or option; reads nothing.
    """
    return REGISTRY.create(name, **options, **({} if path is None else {"path": path}))
