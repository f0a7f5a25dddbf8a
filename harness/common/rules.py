"""Rules that something must keep: each is checked by itself, and says in a line what holds or what breaks it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.shown import first_line, one_line

T = TypeVar("T")
Outcome = Literal["holds", "broken", "not checked"]


class Broken(VhsbenchError):
    """A rule that is not kept; the message says by what, with numbers."""


@dataclass(frozen=True)
class Rule(Generic[T]):
    """What must hold, in a sentence, and what checks it.

    `check` returns what it measured, in words, and raises Broken, or whatever the checked code raises. Where a rule of
    `after` does not hold, this one would say nothing new, and is not checked.
    """

    name: str
    says: str
    check: Callable[[T], str]
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A rule with what was found of it."""

    rule: str
    outcome: Outcome
    found: str
    says: str

    @property
    def line(self) -> str:
        """The finding in a sentence, for errors."""
        return f"{self.rule}: {self.found} ({self.says})"


def examine(rules: Sequence[Rule[T]], subject: T) -> list[Finding]:
    """Check every rule on `subject`, in order. An exception of the subject breaks the rule that met it."""
    findings: list[Finding] = []
    for rule in rules:
        outcome, found = _examined(rule, subject, {f.rule for f in findings if f.outcome != "holds"})
        findings.append(Finding(rule.name, outcome, found, rule.says))
    return findings


def broken(findings: Sequence[Finding]) -> list[Finding]:
    """Select the rules that are broken."""
    return [finding for finding in findings if finding.outcome == "broken"]


def _examined(rule: Rule[T], subject: T, unheld: set[str]) -> tuple[Outcome, str]:
    if waiting := [name for name in rule.after if name in unheld]:
        return "not checked", f"'{waiting[0]}' does not hold"
    try:
        return "holds", rule.check(subject)
    except VhsbenchError as error:
        return "broken", first_line(error)
    except (Exception, SystemExit) as error:  # another package's code may raise anything
        return "broken", f"it raises {one_line(error)}"
