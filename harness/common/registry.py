"""Names to lazily imported factories, open to other packages through entry points."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.shown import one_line

T = TypeVar("T")
O = TypeVar("O")  # noqa: E741 - of options


class RegistryError(VhsbenchError):
    """An unknown name, or an entry that is duplicate or broken. The message is one sentence for a user."""


def nearest(name: str, known: list[str]) -> str:
    """Write a "did you mean" clause, or the list of known names."""
    match = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"did you mean '{match[0]}'?" if match else f"known: {', '.join(sorted(known)) or 'none'}."


_NAME = re.compile(r"[A-Za-z0-9_+-][A-Za-z0-9._+-]*")  # it names files


class Registry(Generic[T]):
    """Maps a name to "module:factory". Nothing is imported before `get` or `create` asks for it.

    What other packages register cannot break the rest: an entry point under a name that is taken or not
    allowed is left out, and `refused` says why. What a factory makes must have all members of `protocol`; missing
    ones are taken from `defaults`, if they are there.
    """

    def __init__(
        self,
        kind: str,
        entry_point_group: str,
        builtin: dict[str, str],
        protocol: type = object,
        defaults: type = object,
    ) -> None:
        self.kind = kind
        self._protocol, self._defaults = protocol, defaults
        self._group = entry_point_group
        self._builtin = dict(builtin)
        self._targets: dict[str, str] | None = None
        self._refused: dict[str, str] = {}
        self._packages: dict[
            str, str
        ] = {}  # the package, with its version, whose entry point registered a name

    def register(self, name: str, target: str) -> None:
        """Add `name` -> "module:factory". Raises RegistryError if the name is taken or not allowed."""
        targets = self._load()
        if reason := self._why_not(name, target, targets):
            raise RegistryError(f"{self.kind} {reason}.")
        targets[name] = target

    def names(self) -> list[str]:
        return sorted(self._load())

    def refused(self) -> dict[str, str]:
        """Say why entry points of other packages are left out, by "name = module:factory"."""
        self._load()
        return dict(self._refused)

    def is_builtin(self, name: str) -> bool:
        return name in self._builtin

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: object) -> bool:
        return name in self._load()

    def target(self, name: str) -> str:
        targets = self._load()
        if name not in targets:
            raise RegistryError(f"unknown {self.kind} '{name}'; {nearest(name, self.names())}")
        return targets[name]

    def get(self, name: str) -> Callable[..., T]:
        """Import the factory. Raises RegistryError if the name is unknown or the import fails."""
        target = self.target(name)
        module_name, _, attribute = target.partition(":")
        try:
            factory = getattr(importlib.import_module(module_name), attribute)
        except (Exception, SystemExit) as error:  # a plugin's module may raise anything
            if self.is_builtin(name) and not isinstance(error, ImportError):
                raise
            raise RegistryError(
                f"{self.kind} '{name}' cannot be loaded from '{target}': {one_line(error)}."
            ) from error
        if not callable(factory):
            raise RegistryError(f"{self.kind} '{name}': '{target}' is not callable.")
        return factory

    def create(self, name: str, **options: Any) -> T:
        """Call the factory.

        Raises RegistryError for an unknown name, an option it lacks or needs, and for what lacks a member of the
        protocol.
        """
        self.check_options(name, options)
        if missing := [p.name for p in self._parameters(name) if _is_required(p) and p.name not in options]:
            raise RegistryError(f"{self.kind} '{name}' needs the option '{missing[0]}'.")
        made = self.get(name)(**options)
        self._complete(name, made)
        return made

    def _complete(self, name: str, made: T) -> None:
        """Let `made` have the defaults, as if its class derived from them. Raises RegistryError for a member that it lacks."""
        members = [*vars(self._protocol), *inspect.get_annotations(self._protocol)]
        missing = [m for m in members if not m.startswith("_") and not hasattr(made, m)]
        lacking = [m for m in missing if not hasattr(self._defaults, m)]
        if missing and not lacking:
            try:
                own: type = type(made)
                made.__class__ = _derived(own, self._defaults)
            except (AttributeError, TypeError):  # of a class that is closed, such as one with slots
                lacking = missing
        if lacking:
            raise RegistryError(
                f"{self.kind} '{name}' lacks '{lacking[0]}'; {self._protocol.__module__} says what a {self.kind} has."
            )

    def identity(self, name: str, **options: Any) -> dict[str, Any]:
        """Return what decides the results of what `create` would build, as plain JSON; build and load nothing.

        It is the factory's own `identity(**options)` if it has one, else the options as they are; entries of other
        packages add their version. Raises what the factory's own raises for missing weights.
        """
        own = getattr(self.get(name), "identity", None)
        package = self._packages.get(name)
        known = {"name": name} | ({"package": package} if package else {})
        return known | (own(**options) if own is not None else {"options": options})

    def check_options(self, name: str, options: Iterable[str]) -> None:
        """Refuse options that the factory does not have; one with ** has any. Raises RegistryError."""
        parameters = self._parameters(name)
        known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            for option in options:
                if option not in known:
                    raise RegistryError(
                        f"{self.kind} '{name}' has no option '{option}'; {nearest(option, known)}"
                    )

    def takes(self, name: str, option: str) -> bool:
        """Return whether the factory names an option, one that ** would swallow not counted."""
        return option in [p.name for p in self._parameters(name)]

    def default(self, name: str, option: str) -> Any:
        """Return the factory's default of an option; None if it has no such option, or no default."""
        parameter = next((p for p in self._parameters(name) if p.name == option), None)
        return None if parameter is None or parameter.default is parameter.empty else parameter.default

    def _parameters(self, name: str) -> list[inspect.Parameter]:
        return list(inspect.signature(self.get(name)).parameters.values())

    def _load(self) -> dict[str, str]:
        if self._targets is None:
            targets = dict(self._builtin)
            for point in entry_points(group=self._group):
                if reason := self._why_not(point.name, point.value, targets):
                    self._refused[f"{point.name} = {point.value}"] = reason
                else:
                    targets[point.name] = point.value
                    if (package := getattr(point, "dist", None)) is not None:
                        self._packages[point.name] = f"{package.name} {package.version}"
            self._targets = targets
        return self._targets

    def _why_not(self, name: str, target: str, targets: dict[str, str]) -> str:
        """Say why an entry cannot be added, or ""."""
        if not _NAME.fullmatch(name):
            return (
                f"'{name}' names files: letters, digits, '.', '_', '+' and '-' alone, no '.' at the beginning"
            )
        if name in targets and self._builtin.get(name) == targets[name]:
            return f"'{name}' is one of vhsbench's own; {target} needs another name"
        if name in targets:
            return f"'{name}' is registered twice: {targets[name]} and {target}"
        return ""


class Factory(Generic[T]):
    """A registry's entry whose options are the fields of a dataclass, from which it makes or identifies something."""

    def __init__(
        self, options: Callable[..., O], make: Callable[[O], T], identify: Callable[[O], dict[str, Any]]
    ) -> None:
        self.__signature__ = inspect.signature(options)  # by which a registry checks what it is given
        self._options, self._make, self._identify = options, make, identify

    def __call__(self, **options: Any) -> T:
        return self._make(self._options(**options))

    def identity(self, **options: Any) -> dict[str, Any]:
        """See Registry.identity."""
        return self._identify(self._options(**options))


@cache
def _derived(own: type, defaults: type) -> type:
    return type(own.__name__, (own, defaults), {"__module__": own.__module__})


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind in (
        parameter.POSITIONAL_OR_KEYWORD,
        parameter.KEYWORD_ONLY,
    )
