"""What entries of a configuration have in common: a name that is registered, and options that its factory takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ValidationInfo, field_validator

from vhsbench.harness.common.registry import Registry, nearest
from vhsbench.harness.common.settings import Strict, device_name


def _folder_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*", name):
        raise ValueError(
            f"'{name}' names files; use letters, digits, '.', '_', '+' and '-', no '.' at the beginning"
        )
    return name


Name = Annotated[str, AfterValidator(_folder_name)]


class Registered(Strict):
    """An entry that names something of `registry`, with the options that its factory takes.

    `elsewhere` are options that are not the entry's to give, with what gives them.
    """

    registry: ClassVar[Registry[Any]]
    short = "name"
    elsewhere: ClassVar[Mapping[str, str]] = {}

    @field_validator("name", check_fields=False)
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in cls.registry:
            raise ValueError(f"unknown {cls.registry.kind} '{name}'; {nearest(name, cls.registry.names())}")
        return name

    @field_validator("options", check_fields=False)
    @classmethod
    def _possible(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Import the factory's module if there are any options, but build nothing."""
        for key, place in cls.elsewhere.items():
            if key in options:
                raise ValueError(f"'{key}' is no option here; it is given by {place}")
        if options.get("device") is not None:
            device_name(options["device"])
        name = info.data.get("name")
        if name is not None and options:  # a name of None was refused before
            cls.registry.check_options(name, options)
        return options
