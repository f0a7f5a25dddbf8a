"""Strategies by name, open to other packages through the entry points `vhsbench.strategies`; and their text form.

As text, a strategy is its name, its verifiers and what is fixed of its parameters: "cascade:vhs>mllm-clip,n=8,k=2".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.registry import Registry, nearest
from vhsbench.harness.strategies.base import Pools, Strategy

_HERE = "vhsbench.harness.strategies"
STRATEGIES: Registry[Strategy] = Registry(
    "strategy",
    "vhsbench.strategies",
    {
        "best-of-n": f"{_HERE}.best_of_n:BestOfN",
        "cascade": f"{_HERE}.cascade:Cascade",
        "stop": f"{_HERE}.stop:Stop",
        "ensemble": f"{_HERE}.ensemble:Ensemble",
        "refine": f"{_HERE}.refine:Refine",
    },
    Strategy,
)
MOST = 10_000  # of a count


class StrategyError(VhsbenchError):
    """A strategy that is none, or cannot run here; the message is one sentence for a user."""


class NotMadeAgain(StrategyError):
    """A strategy that refines, where candidates were not made again with its steps."""


@dataclass(frozen=True)
class Template:
    """A strategy of which the parameters in `fixed` are given, and the others are chosen per budget."""

    name: str
    verifiers: tuple[str, ...]
    fixed: Mapping[str, float] = field(default_factory=dict)

    @property
    def kind(self) -> type[Strategy]:
        found = STRATEGIES.get(self.name)
        assert isinstance(found, type)
        return found

    @property
    def text(self) -> str:
        return written(self.name, self.kind, self.verifiers, self.fixed)

    def settings(self, pools: Pools) -> list[Strategy]:
        """List what there is to choose from.

        Raises StrategyError where the pools are too small for what is fixed, and NotMadeAgain.
        """
        known = {None, *pools.again}
        listed = self.kind.settings(self.verifiers, self.fixed, pools)
        found = [s for s in listed if s.n <= pools.size and s.again in known]
        if self.kind.refines and all(s.again not in known for s in listed):
            raise NotMadeAgain(
                f"'{self.text}' needs candidates that the run made again with {self.fixed.get('steps', 'more')} steps, from the same "
                "noise: the generator a second time, with 'options: {steps: ...}' and as large a pool."
            )
        if not found:
            raise StrategyError(f"'{self.text}' fits no pool of {pools.size} candidates.")
        return list(found)

    def at(self, n: int) -> Strategy:
        """Return the strategy of n candidates. Raises StrategyError if another parameter is not given."""
        return Template(self.name, self.verifiers, {**self.fixed, "n": n}).whole()

    def whole(self) -> Strategy:
        """Return the strategy. Raises StrategyError if a parameter is not given."""
        if missing := [name for name in self.kind.parameters() if name not in self.fixed]:
            raise StrategyError(
                f"'{self.text}' cannot run without {missing[0]}; write '{self.text},{missing[0]}=...'."
            )
        return self.kind(verifiers=self.verifiers, **self.fixed)  # type: ignore[call-arg]


def written(name: str, kind: type[Strategy], verifiers: Sequence[str], values: Mapping[str, float]) -> str:
    """Write a strategy as text."""
    parts = [f"{name}:{kind.between.join(verifiers)}", *(f"{k}={v:.4g}" for k, v in values.items())]
    return ",".join(parts)


def parse(text: str) -> Template:
    """Read a strategy from text. Raises StrategyError, and RegistryError for an unknown name."""
    match = re.fullmatch(r"\s*([\w.+-]+)\s*:\s*([^,]+?)\s*(?:,(.*))?", text)
    if match is None:
        raise StrategyError(
            f"'{text}' is no strategy; write NAME:VERIFIERS,PARAMETER=VALUE, such as 'cascade:vhs>mllm-clip,n=8,k=2'."
        )
    name, verifiers, rest = match.groups()
    kind = STRATEGIES.get(name)
    if not (isinstance(kind, type) and issubclass(kind, Strategy)):
        raise StrategyError(
            f"strategy '{name}' is not a class derived from vhsbench.harness.strategies.base.Strategy."
        )
    wanted = 2 if kind.between else 1
    found = tuple(v.strip() for v in (verifiers.split(kind.between) if kind.between else [verifiers]))
    if len(found) != wanted or not all(found):
        form = f"VERIFIER{kind.between}VERIFIER" if kind.between else "VERIFIER"
        raise StrategyError(f"'{text}' names no {wanted} verifier(s); write {name}:{form}.")
    if len(set(found)) != len(found):
        raise StrategyError(f"'{text}' names the verifier '{found[0]}' twice.")
    return Template(name, found, _values(text, kind, (rest or "").split(",") if rest else []))


def _values(text: str, kind: type[Strategy], parts: Sequence[str]) -> dict[str, float]:
    known, found = kind.parameters(), {}
    for part in parts:
        key, _, value = (p.strip() for p in part.partition("="))
        if key not in known:
            raise StrategyError(f"'{text}' has no parameter '{key}'; {nearest(key, list(known))}")
        if key in found:
            raise StrategyError(f"'{text}' gives {key} twice.")
        found[key] = _number(text, key, value, known[key])
    if found.get("k", 0) > found.get("n", math.inf):
        raise StrategyError(f"'{text}' keeps more candidates than it draws.")
    return found


def _number(text: str, key: str, value: str, kind: type) -> float:
    try:
        number = kind(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or (kind is int and not 1 <= number <= MOST):
        form = f"a whole number from 1 to {MOST}" if kind is int else "a number"
        raise StrategyError(f"'{text}': {key} is {form}, not '{value}'.")
    return number
