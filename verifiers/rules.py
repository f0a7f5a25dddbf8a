"""What a verifier must keep, as rules that can be checked on any: docs/extending.md lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from vhsbench.generators.rules import TOLERANCE, TOLERANCE_16_BITS, relative_error, tolerance
from vhsbench.harness.common.rules import Broken, Rule
from vhsbench.verifiers.checks import check_form, check_values, marks
from vhsbench.verifiers.protocol import QuestionTokens, Scores, Verifier

_SUM = 1.001  # P(yes) + P(no), with rounding


@dataclass(frozen=True)
class Trial:
    """A verifier and candidates that it reads, one for each prompt: features as `Verifier.score` takes them."""

    verifier: Verifier
    prompts: Sequence[str]
    features: Any

    def score(self, rows: Sequence[int], prompts: Sequence[str] | None = None) -> Scores:
        """Score copies of some candidates, by default against their own prompts."""
        texts = [self.prompts[i] for i in rows] if prompts is None else list(prompts)
        return check_form(self.verifier, self.verifier.score(texts, self.copies(rows)), len(rows))

    def copies(self, rows: Sequence[int]) -> Any:
        """Return copies of the features of some candidates."""
        if isinstance(self.features, torch.Tensor):
            return self.features[list(rows)].clone()
        return [self.features[i].copy() for i in rows]

    @property
    def all(self) -> list[int]:
        return list(range(len(self.prompts)))

    @cached_property
    def scores(self) -> Scores:
        return self.score(self.all)

    @property
    def tolerance(self) -> float:
        modules = self.verifier.modules().values()
        return tolerance([self.scores.score, *(p for module in modules for p in module.parameters())])


def _scores(trial: Trial) -> str:
    score = trial.scores.score.detach().float().cpu().numpy()
    check_values(trial.verifier, score, _name)
    return f"{str(trial.scores.score.dtype).removeprefix('torch.')} [{len(score)}], {score.min():.4g} to {score.max():.4g}"


def _name(row: int) -> str:
    return f"candidate {row}"


def _probabilities(trial: Trial) -> str:
    found = marks(trial.verifier, trial.scores, len(trial.prompts), _name)
    known = {field: ~np.isnan(found[field]) for field in ("p_yes", "p_no")}
    if (known["p_yes"] != known["p_no"]).any():
        raise Broken("one of p_yes and p_no is given without the other")
    if not known["p_yes"].any():
        return "it gives none: it has no calibration and no rows without scoring"
    largest = float(np.nanmax(found["p_yes"] + found["p_no"]))
    if largest > _SUM:
        raise Broken(f"p_yes + p_no is up to {largest:.4g}")
    return f"p_yes {np.nanmin(found['p_yes']):.4g} to {np.nanmax(found['p_yes']):.4g}, p_yes + p_no up to {largest:.4g}"


def _order(trial: Trial) -> str:
    rows = [i for i in trial.all for _ in trial.all]
    scores = trial.score(rows, [prompt for _ in trial.all for prompt in trial.prompts])
    found = marks(trial.verifier, scores, len(rows), _name)
    yes, no, score = found["p_yes"], found["p_no"], found["score"]
    surer = (yes[:, None] > yes) & (no[:, None] < no)
    against = int((surer & (score[:, None] < score)).sum())
    if against:
        raise Broken(
            f"in {against} of {int(surer.sum())} pairs the candidate of more P(yes) and less P(no) has the lower score"
        )
    return f"in all {int(surer.sum())} pairs"


def _value(trial: Trial) -> str:
    score = trial.scores.score.detach()
    value = trial.verifier.value(score)
    if value is None:
        return "it gives none: it cannot be a judge"
    if not isinstance(value, torch.Tensor) or value.shape != score.shape or not value.is_floating_point():
        raise Broken(f"value() of {len(score)} scores is no floating-point tensor [{len(score)}]")
    if not ((value >= 0) & (value <= 1)).all():
        raise Broken(f"values are {float(value.min()):.4g} to {float(value.max()):.4g}")
    if (value[score.argsort()].diff() < 0).any():
        raise Broken("a higher score has a lower value")
    return f"{float(value.min()):.4g} to {float(value.max()):.4g}"


def _device(trial: Trial) -> str:
    device = trial.verifier.device
    if not isinstance(device, torch.device):
        raise Broken(f"device is of type {type(device).__name__}, not torch.device")
    place = torch.empty(0, device=device).device
    for name, module in trial.verifier.modules().items():
        if apart := {str(p.device) for p in module.parameters() if p.device != place}:
            raise Broken(
                f"'{name}' lies on {', '.join(sorted(apart))}, but the verifier's device is {device}"
            )
    return str(device)


def _inputs(trial: Trial) -> str:
    given, untouched = trial.copies(trial.all), trial.copies(trial.all)
    trial.verifier.score(list(trial.prompts), given)
    if isinstance(given, torch.Tensor):
        changed = [i for i in trial.all if not torch.equal(given[i], untouched[i])]
    else:
        changed = [i for i in trial.all if given[i].tobytes() != untouched[i].tobytes()]
    if changed:
        raise Broken(f"the features of {len(changed)} of {len(trial.all)} candidates are changed")
    return f"{len(trial.all)} candidates"


def _determinism(trial: Trial) -> str:
    again = trial.score(trial.all)
    for field in ("score", "p_yes", "p_no"):
        first, second = getattr(trial.scores, field), getattr(again, field)
        if first is not None and not torch.equal(first.nan_to_num(), second.nan_to_num()):
            raise Broken(f"{field} is another the second time, by {relative_error(second, first):.2g}")
    return "bit for bit"


def _batch(trial: Trial) -> str:
    together, limit = trial.scores.score, trial.tolerance
    ways = {
        "alone": torch.cat([trial.score([i]).score for i in trial.all]),
        "in another order": trial.score(trial.all[::-1]).score.flip(0),
    }
    for way, found in ways.items():
        error = relative_error(found, together)
        if not error <= limit:
            raise Broken(
                f"{way}, scores are {error:.2g} off those in a batch of {len(trial.all)}; at most {limit:g} is allowed"
            )
    worst = max(relative_error(found, together) for found in ways.values())
    return f"at most {worst:.2g} apart; {limit:g} is allowed"


def _prompt(trial: Trial) -> str:
    others = trial.score(trial.all, [*trial.prompts[1:], trial.prompts[0]])
    return _differ(others.score, trial.scores.score, "the same candidates score alike against other prompts")


def _candidates(trial: Trial) -> str:
    same = [trial.prompts[0]] * len(trial.all)
    scores = trial.score(trial.all, same).score
    return _differ(scores, scores.roll(1), "all candidates score alike against one prompt")


def _differ(a: torch.Tensor, b: torch.Tensor, said: str) -> str:
    largest = float((a.double() - b.double()).abs().max())
    if largest == 0:
        raise Broken(said)
    return f"scores differ by up to {largest:.4g}"


def _costs(trial: Trial) -> str:
    prompts, verifier = list(trial.prompts), trial.verifier
    parts, tokens = verifier.parts(prompts, trial.copies(trial.all)), verifier.question_tokens(prompts[0])
    if not isinstance(parts, Mapping):
        raise Broken(f"parts() gives {type(parts).__name__}, not calls by name")
    for call in parts.values():
        call()
    if tokens is not None and not isinstance(tokens, QuestionTokens):
        raise Broken(f"question_tokens() gives {type(tokens).__name__}, not QuestionTokens or None")
    return f"parts: {', '.join(parts) or 'none, timed as a whole'}"


RULES: tuple[Rule[Trial], ...] = (
    Rule("scores", "score(prompts, features) gives a finite score of each candidate, a floating-point tensor [B]",
         _scores),
    Rule("probabilities", "p_yes and p_no are from 0 to 1, both or neither, and at most 1 together", _probabilities,
         ("scores",)),
    Rule("order", "more P(yes) with less P(no) is no lower score", _order, ("probabilities", "determinism")),
    Rule("value", "value(score) is None, or from 0 to 1, and a higher score's is no lower", _value, ("scores",)),
    Rule("device", "`device` is a torch.device, and all modules lie there", _device),
    Rule("inputs", "features are left as they were", _inputs, ("scores",)),
    Rule("determinism", "the same call gives the same bits", _determinism, ("inputs",)),
    Rule("batch", f"a candidate scores the same alone, in a batch and in another order, within {TOLERANCE:g} of the "
         f"scores' size ({TOLERANCE_16_BITS:g} in 16 bits)", _batch, ("determinism",)),
    Rule("prompt", "other prompts give other scores", _prompt, ("determinism",)),
    Rule("candidates", "other candidates have other scores", _candidates, ("determinism",)),
    Rule("costs", "parts() and question_tokens(), which costs are measured by, can be called", _costs, ("inputs",)),
)  # fmt: skip
