"""Best-of-N, staged: the text is encoded once, candidates share it, and the winner alone is finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from vhsbench.harness.inference.candidates import candidate
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
    cond = generator.encode([prompt])
    if verifier is None:
        image = generator.decode(generator.denoise(cond, generator.noise(seeds[:1])))[0]
        return BestOfN(image, 0, torch.zeros(1))
    scores, kept = [], []
    for start in range(0, len(seeds), batch):
        part = seeds[start : start + batch]
        candidates = features(generator, verifier, cond.select([0] * len(part)), part)
        read = candidates.features if verifier.needs == "hidden" else candidates
        scores.append(check_form(verifier, verifier.score([prompt] * len(part), read), len(part)).score)
        kept.append(candidates)
    all_scores = torch.cat(scores).cpu()
    check_values(
        verifier, all_scores.float().numpy(), lambda i: candidate(generator.name, prompt, seeds[i], i)
    )
    index = int(all_scores.argmax())
    return BestOfN(_finish(generator, verifier, kept[index // batch], index % batch), index, all_scores)


def features(generator: Generator, verifier: Verifier, cond: Conditioning, seeds: Sequence[int]) -> Any:
    """What the verifier reads of a batch of candidates, and what the winner is finished from."""
    noise = generator.noise(seeds)
    if verifier.needs == "hidden":
        assert verifier.block is not None
        return generator.head(cond, noise, verifier.block)
    latents = generator.denoise(cond, noise)
    return latents if verifier.needs == "latents" else generator.decode(latents)


def _finish(generator: Generator, verifier: Verifier, candidates: Any, row: int) -> Image.Image:
    if verifier.needs == "hidden":
        return generator.decode(generator.tail(candidates.select([row])))[0]
    if verifier.needs == "latents":
        return generator.decode(candidates[row : row + 1])[0]
    image: Image.Image = candidates[row]
    return image
