"""Best-of-N, staged: the text is encoded once, candidates share it, and the winner alone is finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from vhsbench.harness.inference.candidates import candidate
from vhsbench.harness.inference.route import route_of
from vhsbench.verifiers.checks import check_form, check_values

if TYPE_CHECKING:
    from PIL import Image

    from vhsbench.generators.protocol import Conditioning, Generator
    from vhsbench.verifiers.protocol import Verifier


@dataclass(frozen=True)
class BestOfN:
    """The winner: its image, its index among the candidates, and all candidates' scores [N]."""

    image: Image.Image
    index: int
    scores: torch.Tensor


def best_of_n(
    generator: Generator,
    verifier: Verifier | None,
    prompt: str,
    seeds: Sequence[int],
    batch: int = 1,
) -> BestOfN:
    """Generate len(seeds) candidates, score them, return the best (the first maximum).

    batch=1 is the paper's way, one candidate at a time. VHS finishes (tail, decode) the winner
    alone, MLLM w/ AE decodes it alone, MLLM w/ CLIP has decoded all. No verifier: the first seed.
    Raises ValueError for a verifier that cannot read what the generator makes, ScoresError for scores
    that are none, NotFiniteError for a picture of NaN.
    """
    if verifier is not None:
        verifier.check_host(generator)
    route, cond = route_of(verifier), generator.encode([prompt])
    if verifier is None:
        return BestOfN(route.start(generator, cond, seeds[:1])[0], 0, torch.zeros(1))
    scores, kept = [], []
    same: dict[int, Conditioning] = {}  # of batches of one size
    for start in range(0, len(seeds), batch):
        part = seeds[start : start + batch]
        if len(part) not in same:
            same[len(part)] = cond.select([0] * len(part))
        state = route.start(generator, same[len(part)], part)
        found = verifier.score([prompt] * len(part), route.reads(state))
        scores.append(check_form(verifier, found, len(part)).score)
        kept.append(state)
    all_scores = torch.cat(scores).cpu()
    check_values(
        verifier, all_scores.float().numpy(), lambda i: candidate(generator.name, prompt, seeds[i], i)
    )
    index = int(all_scores.argmax())
    image = route.finish(generator, cond, kept[index // batch], index % batch)[0]
    return BestOfN(image, index, all_scores)
