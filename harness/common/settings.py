"""The building blocks of configurations: strict models, bounded numbers, devices, and paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.limits import LARGEST_SEED, LONGEST_S, MOST, MOST_CANDIDATES, MOST_THREADS


class Strict(BaseModel):
    """A frozen model that refuses unknown keys, NaN and infinities.

    `short` is the key that a text alone stands for: `vhs` for `{name: vhs}`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
    short: ClassVar[str | None] = None

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, given: Any) -> Any:
        if cls.short is None or isinstance(given, (Mapping, cls)):
            return given
        if not isinstance(given, str):
            raise ValueError(f"write its {cls.short}, or a mapping with the key '{cls.short}', not {given!r}")
        return {cls.short: given}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        schema = handler.resolve_ref_schema(handler(core))
        if cls.short is None:
            return schema
        about: dict[str, Any] = {key: schema[key] for key in ("title", "description") if key in schema}
        whole = {key: value for key, value in schema.items() if key not in about}
        text = {"type": "string", "description": f"{cls.short} alone"}
        return {**about, "anyOf": [text, whole]}


# strict: `true` is no number
CandidateCount = Annotated[int, Field(ge=1, le=MOST_CANDIDATES, strict=True)]  # of a prompt, or of a batch
Amount = Annotated[int, Field(ge=1, le=MOST, strict=True)]  # of prompts, images, repeats, redraws, steps
AmountOrNone = Annotated[int, Field(ge=0, le=MOST, strict=True)]
Threads = Annotated[int, Field(ge=1, le=MOST_THREADS, strict=True)]  # or processes
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED, strict=True)]
Seconds = Annotated[float, Field(ge=0, le=LONGEST_S)]


class UnknownDevice(VhsbenchError):
    """An unknown device; the message is one sentence for a user."""


def device_name(name: object) -> str:
    """Return the name if it can be a device's. Raises UnknownDevice."""
    if not isinstance(name, str) or not re.fullmatch(r"cpu|mps|(cuda|xpu)(:\d{1,4})?", name):
        raise UnknownDevice(f"unknown device '{name}'; known: cpu, cuda, cuda:N.")
    return name


Device = Annotated[str, AfterValidator(device_name)]  # whether it exists is checked when work starts

HUB_ID = r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?"  # owner/name[@revision]
TAG = r"[\w-]+"  # a word without dots, such as a tag of open_clip's


@dataclass(frozen=True)
class Local:
    """Marks a field whose text is a path, relative to the file that contains it.

    `names` is a pattern of texts that are never paths, such as "bundled"; `other` of those that are not if there is no
    such file, such as HUB_ID. A URL is never a path. `needed`: it must exist when the configuration is read.
    """

    names: str = ""
    other: str = ""
    needed: bool = True


@dataclass(frozen=True)
class LocalOptions:
    """Marks a field of options, some of which are such paths."""

    paths: Mapping[str, Local]


class LocalChanges:
    """Marks a field of named changes, each with keys of the model that the field is in."""


def model_in(annotation: Any) -> type[BaseModel] | None:
    """Return the model that a field's type is or contains."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(model_in, get_args(annotation))), None)
