"""Paths in a configuration are relative to its file: here they become absolute, when it is read."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.settings import Local, LocalChanges, LocalOptions, model_in

Place = tuple[str | int, ...]


class NoSuchPath(VhsbenchError):
    """A path that is not there: the place in the configuration, and a sentence without it."""

    def __init__(self, place: Place, sentence: str) -> None:
        super().__init__(sentence)
        self.place = place


@dataclass(frozen=True)
class Base:
    """The folder that paths are relative to; where `lenient`, none needs to be there.

    Raises NoSuchPath.
    """

    folder: Path
    lenient: bool = False

    def anchored(self, data: Any, model: type[BaseModel], place: Place = ()) -> Any:
        """Make paths absolute in the data of a `model`, or of a list of them. What does not fit is left alone."""
        if isinstance(data, list):
            return [self.anchored(item, model, (*place, i)) for i, item in enumerate(data)]
        if isinstance(data, str) and (short := getattr(model, "short", None)) is not None:
            return self.anchored({short: data}, model, place)[short]
        if not isinstance(data, Mapping):
            return data
        found = dict(data)
        for key, field in model.model_fields.items():
            if key in found:
                inner = model_in(field.annotation)
                if inner is not None:
                    found[key] = self.anchored(found[key], inner, (*place, key))
                for mark in field.metadata:
                    found[key] = self._marked(found[key], mark, model, (*place, key))
        return found

    def _marked(self, value: Any, mark: object, model: type[BaseModel], place: Place) -> Any:
        if isinstance(mark, Local):
            return self._path(value, mark, place)
        if not isinstance(value, Mapping):
            return value
        if isinstance(mark, LocalOptions):
            paths = {key: local for key, local in mark.paths.items() if key in value}
            return {**value, **{k: self._path(value[k], local, (*place, k)) for k, local in paths.items()}}
        if isinstance(mark, LocalChanges):
            return {key: self.anchored(changes, model, (*place, key)) for key, changes in value.items()}
        return value

    def _path(self, value: Any, local: Local, place: Place) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._path(item, local, (*place, i)) for i, item in enumerate(value)]
        if not isinstance(value, (str, Path)):
            return value
        text = str(value)
        if "\0" in text or "://" in text or re.fullmatch(local.names, text):
            return value
        at = os.path.normpath(self.folder / text)
        if os.path.exists(at):
            return at
        if not os.path.isabs(text) and os.path.exists(text):
            raise NoSuchPath(
                place,
                f"there is no '{at}'; paths are relative to this file, not to the working directory, "
                f"where there is a '{text}'",
            )
        if re.fullmatch(local.other, text):
            return value
        if local.needed and not self.lenient:
            raise NoSuchPath(place, f"there is no '{at}'; paths are relative to this file")
        return at
