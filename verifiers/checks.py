"""Check what a verifier returned: the form of its scores, and their values once they are on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.verifiers.protocol import Scores

if TYPE_CHECKING:
    import torch

    from vhsbench.verifiers.protocol import Verifier

Name = Callable[[int], str]  # the candidate in a row of a batch, in words
Marks = dict[str, NDArray[np.float32]]  # p_yes, p_no and score, each [B]
_FIELDS = ("p_yes", "p_no", "score")
_ROUNDING = 1e-3  # how far a probability in 16 bits may lie outside 0..1


class ScoresError(VhsbenchError):
    """A verifier's answer without usable scores; names the verifier and, for a value, the candidate."""


def marks(verifier: Verifier, scores: Scores, count: int, name: Name) -> Marks:
    """Return the scores of `count` candidates on the CPU, in float32; p_yes and p_no are NaN if unknown.

    Raises ScoresError for a form other than `Scores`, a score that is not finite, or a probability outside 0..1.
    """
    check_form(verifier, scores, count)
    found = {field: _on_cpu(getattr(scores, field), count) for field in _FIELDS}
    check_values(verifier, found["score"], name)
    for field in ("p_yes", "p_no"):
        p = found[field]
        _refuse(
            verifier, field, p, (p < -_ROUNDING) | (p > 1 + _ROUNDING), name, "a probability is from 0 to 1"
        )
    return found


def _on_cpu(part: torch.Tensor | None, count: int) -> NDArray[np.float32]:
    if part is None:
        return np.full(count, np.nan, np.float32)
    values: NDArray[np.float32] = part.detach().float().cpu().numpy()
    return values


def outside_0_1(p: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Tell which numbers are neither probabilities nor NaN."""
    return np.asarray((p < -_ROUNDING) | (p > 1 + _ROUNDING))


def check_form(verifier: Verifier, scores: Scores, count: int) -> Scores:
    """Return the scores if each part is a floating-point tensor [count], or a probability that is not given.

    Does not wait for the device. Raises ScoresError.
    """
    import torch

    for field in _FIELDS:
        part: Any = getattr(scores, field, None)
        if part is None and field != "score" and isinstance(scores, Scores):
            continue
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
