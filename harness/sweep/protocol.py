"""A run's protocol: what decides what its accuracies mean, as a short digest by which tables can be compared or not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vhsbench.harness.store.tables import Run, StoreError
from vhsbench.harness.sweep.identity import Prompts, prompts_sha256

ACCURACY = 1  # raise it when the same verdicts and scores give other accuracies than before
DIGITS = 12
# where and in which batches a judge computes moves its last bits at most
_PLACES = ("device", "devices", "batch_size")


@dataclass(frozen=True)
class Protocol:
    """The parts of a protocol, as plain JSON; None for one that an earlier version did not record.

    prompts: the SHA-256 of texts and metadata. detector: what says which candidates are right, models by content.
    seeds: sorted. precision: the dtypes of generators and of verifiers. versions: of verdicts and scores, and of accuracies.
    """

    prompts: str
    detector: dict[str, Any] | None
    seeds: list[int]
    precision: dict[str, list[str]] | None
    versions: dict[str, int] | None

    @property
    def parts(self) -> dict[str, Any]:
        return dict(vars(self))

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits: equal where all parts are."""
        text = json.dumps(self.parts, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]

    @property
    def unknown(self) -> list[str]:
        """The parts that were not recorded, so that equal digests do not say that they are equal."""
        return [name for name, value in self.parts.items() if value is None]

    @property
    def shown(self) -> str:
        """The digest, and what it leaves open."""
        return self.digest + (f" ({', '.join(self.unknown)} not recorded)" if self.unknown else "")

    @property
    def record(self) -> dict[str, Any]:
        """The digest with its parts, for JSON."""
        return {"digest": self.digest, **self.parts}

    def words(self, part: str) -> str:
        """Say what a part is, in a few words."""
        return _words(part, self.parts[part])

    def differs_in(self, other: Protocol) -> list[str]:
        """Name the parts that are not the same."""
        return [name for name, value in self.parts.items() if value != other.parts[name]]

    def beside(self, other: Protocol) -> str:
        """Say in which parts this one differs from another, with the values of both, as "seeds (1, not 0)"; "" in none."""
        return ", ".join(
            f"{name} ({_apart(self.words(name), other.words(name))})" for name in self.differs_in(other)
        )


def protocol(prompts: Prompts, seeds: Sequence[int], made_of: Iterable[Mapping[str, Any]]) -> Protocol:
    """Return the protocol of candidates. made_of: the inputs of their identities (identity.py); none if not recorded."""
    made = list(made_of)
    judge = made[0].get("detector") or made[0].get("judge") if made else None
    return Protocol(
        prompts_sha256(prompts),
        _placeless(judge),
        sorted(seeds),
        {
            "generators": _dtypes(inputs.get("generator") for inputs in made),
            "verifiers": _dtypes(v for inputs in made for v in (inputs.get("verifiers") or {}).values()),
        }
        if made
        else None,
        {"results": made[0].get("results", 0), "accuracy": ACCURACY} if made else None,
    )


def of_run(run: Run) -> Protocol:
    """Return a run's protocol: of its own prompts and candidates, and of what run.json says that they were made of.

    Raises StoreError for a damaged identity.
    """
    try:
        made = (run.info.get("identity") or {}).get("generators") or {}
        return protocol(run.prompts, [int(seed) for seed in run.candidates["seed"].unique()], made.values())
    except (AttributeError, TypeError) as error:
        raise StoreError(f"{run.path}/run.json is damaged: its identity does not name models.") from error


def _placeless(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _placeless(inner) for key, inner in value.items() if key not in _PLACES}


def _dtypes(identities: Iterable[Mapping[str, Any] | None]) -> list[str]:
    """List the dtypes of models, sorted; a plugin's may be among its options, or unknown."""
    found = {known.get("dtype") or known.get("options", {}).get("dtype") for known in identities if known}
    return sorted(str(dtype) for dtype in found if dtype)


def _apart(mine: str, other: str) -> str:
    return f"{mine}, not {other}" if mine != other else f"{mine} of other settings or weights"


def _words(part: str, value: Any) -> str:
    if value is None:
        return "not recorded"
    if part == "prompts":
        return str(value)[:DIGITS]
    if part == "detector":
        return str(value.get("name"))
    if part == "seeds":
        return " ".join(map(str, value))
    if part == "precision":
        return " and ".join(f"{'/'.join(dtypes)} {name}" for name, dtypes in value.items() if dtypes)
    return " and ".join(f"{name} {version}" for name, version in value.items())
