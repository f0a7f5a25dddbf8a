"""Names to lazily imported factories, open to other packages through entry points."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from harness.common.errors import VhsbenchError

T = TypeVar("T")


class RegistryError(VhsbenchError):
    """An unknown name, or an entry that is duplicate or broken. The message is one sentence for a user."""


def nearest(name: str, known: list[str]) -> str:
    """A "did you mean" clause, or the list of known names."""
    match = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"did you mean '{match[0]}'?" if match else f"known: {', '.join(sorted(known)) or 'none'}."


class Registry(Generic[T]):
    """Maps a name to "module:factory". Nothing is imported before `get` or `create` asks for it."""

    def __init__(self, kind: str, entry_point_group: str, builtin: dict[str, str]) -> None:
        self.kind = kind
        self._group = entry_point_group
        self._builtin = dict(builtin)
        self._targets: dict[str, str] | None = None

    def register(self, name: str, target: str) -> None:
        """Add `name` -> "module:factory". Raises RegistryError if the name is taken."""
        targets = self._load()
        if name in targets:
            raise RegistryError(f"{self.kind} '{name}' is registered twice: {targets[name]} and {target}.")
        targets[name] = target

    def names(self) -> list[str]:
        return sorted(self._load())

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._load()

    def target(self, name: str) -> str:
        targets = self._load()
        if name not in targets:
            raise RegistryError(f"unknown {self.kind} '{name}'; {nearest(name, list(targets))}")
        return targets[name]

    def get(self, name: str) -> Callable[..., T]:
        """The factory. Raises RegistryError if the name is unknown or the entry cannot be imported."""
        target = self.target(name)
        module_name, _, attribute = target.partition(":")
        try:
            factory = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise RegistryError(f"{self.kind} '{name}' cannot be loaded from '{target}': {error}.") from error
        if not callable(factory):
            raise RegistryError(f"{self.kind} '{name}': '{target}' is not callable.")
        return factory  # type: ignore[no-any-return]

    def create(self, name: str, **options: Any) -> T:
        """Call the factory. Raises RegistryError for an unknown name or an option it does not have."""
        self.check_options(name, options)
        return self.get(name)(**options)

    def check_options(self, name: str, options: Iterable[str]) -> None:
        """Raises RegistryError for an option that the factory does not have; one with ** has any."""
        parameters = inspect.signature(self.get(name)).parameters.values()
        known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            for option in options:
                if option not in known:
                    raise RegistryError(
                        f"{self.kind} '{name}' has no option '{option}'; {nearest(option, known)}"
                    )

    def default(self, name: str, option: str) -> Any:
        """What the factory takes for an option that is not given; None if it has no such option, or no default."""
        parameter = inspect.signature(self.get(name)).parameters.get(option)
        return None if parameter is None or parameter.default is parameter.empty else parameter.default

    def _load(self) -> dict[str, str]:
        if self._targets is None:
            targets = dict(self._builtin)
            for point in entry_points(group=self._group):
                if point.name in targets:
                    raise RegistryError(
                        f"{self.kind} '{point.name}' is registered twice: "
                        f"{targets[point.name]} and {point.value}."
                    )
                targets[point.name] = point.value
            self._targets = targets
        return self._targets
