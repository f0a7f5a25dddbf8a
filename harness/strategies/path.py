"""The way of candidates that several verifiers read, leg by leg, and what it costs to carry some of them so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vhsbench.harness.cost.stage_costs import Call
from vhsbench.harness.inference.route import ENCODE, SCORE, advance_from, denoise_with


@dataclass(frozen=True)
class Leg:
    """A stage, whose call of it that is (a verifier's with its block; "": the generator's), and who reads what it returns."""

    stage: str
    owner: str
    readers: tuple[str, ...]


def path(needs: Mapping[str, str]) -> list[Leg]:
    """Lay out the stages from seeds to images past every place where a verifier reads.

    needs: what each verifier reads. Several that read hidden states are given in the order of their blocks.
    """
    by_kind = {
        kind: tuple(v for v, need in needs.items() if need == kind)
        for kind in ("hidden", "latents", "images")
    }
    hidden = by_kind["hidden"]
    legs = [Leg("noise", "", ())]
    legs += [Leg(advance_from(hidden[i - 1]) if i else "head", v, (v,)) for i, v in enumerate(hidden)]
    legs.append(
        Leg("tail", hidden[-1], by_kind["latents"]) if hidden else Leg("denoise", "", by_kind["latents"])
    )
    return [*legs, Leg("decode", "", by_kind["images"])]


def calls(needs: Mapping[str, str], scored: Mapping[str, int], again: int | None = None) -> dict[Call, float]:
    """Count the calls of stages, one candidate each, where each verifier scores so many, and the winner is finished.

    again: with how many steps the winner is made again from its noise, in place of finishing it.
    """
    verifiers, legs = tuple(needs), path(needs)
    found: dict[Call, float] = {(verifiers, ENCODE): 1}
    for i, leg in enumerate(legs):
        later = [v for one in legs[i:] for v in one.readers]
        carried = max((scored[v] for v in later), default=0)
        found[(leg.owner,) if leg.owner else verifiers, leg.stage] = max(0 if again else 1, carried)
    for stage in ("noise", denoise_with(again), "decode") if again else ():
        found[verifiers, stage] = found.get((verifiers, stage), 0) + 1
    return found | {((v,), SCORE): scored[v] for v in verifiers}
