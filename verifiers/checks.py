"""Whether what a verifier gave can be scores: their form, and their values once they are on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vhsbench.harness.common.errors import VhsbenchError

if TYPE_CHECKING:
    from vhsbench.verifiers.protocol import Scores, Verifier

Name = Callable[[int], str]  # of a row of a batch: which candidate it is, in words
Marks = dict[str, NDArray[np.float32]]  # p_yes, p_no and score, each [B]
_FIELDS = ("p_yes", "p_no", "score")
_ROUNDING = 1e-3  # by which a probability in 16 bits may pass 0 or 1


class ScoresError(VhsbenchError):
    """A verifier's answer that holds no usable scores; names the verifier and, for a value, the candidate."""


def marks(verifier: Verifier, scores: Scores, count: int, name: Name) -> Marks:
    """The scores of `count` candidates on the CPU, in float32; p_yes and p_no may be NaN where they are unknown.

    Raises ScoresError for another form than `Scores`, a score that is not finite, a probability outside 0..1.
    """
    check_form(verifier, scores, count)
    found = {field: getattr(scores, field).detach().float().cpu().numpy() for field in _FIELDS}
    check_values(verifier, found["score"], name)
    for field in ("p_yes", "p_no"):
        p = found[field]
        _refuse(
            verifier, field, p, (p < -_ROUNDING) | (p > 1 + _ROUNDING), name, "a probability is from 0 to 1"
        )
    return found


def outside_0_1(p: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which numbers are no probability, nor NaN."""
    return np.asarray((p < -_ROUNDING) | (p > 1 + _ROUNDING))


def check_form(verifier: Verifier, scores: Scores, count: int) -> Scores:
    """The scores, if each of their parts is a floating-point tensor [count]; no device is waited for."""
    import torch

    for field in _FIELDS:
        part: Any = getattr(scores, field, None)
        if not isinstance(part, torch.Tensor) or part.shape != (count,) or not part.is_floating_point():
            said = (
                f"{part.dtype} {list(part.shape)}" if isinstance(part, torch.Tensor) else type(part).__name__
            )
            raise ScoresError(
                f"verifier '{verifier.name}' gave {said.removeprefix('torch.')} as '{field}' of {count} candidate(s), "
                f"not a floating-point tensor [{count}]."
            )
    return scores


def check_values(verifier: Verifier, score: NDArray[np.float32], name: Name) -> None:
    """Refuse scores [B] that are NaN or infinite: one would win, or lose, whatever the others are."""
    _refuse(verifier, "score", score, ~np.isfinite(score), name, "a score is a finite number")


def _refuse(
    verifier: Verifier, field: str, values: NDArray[np.float32], odd: NDArray[np.bool_], name: Name, rule: str
) -> None:
    if odd.any():
        row = int(odd.argmax())
        raise ScoresError(f"verifier '{verifier.name}' gave {name(row)} the {field} {values[row]:g}; {rule}.")
