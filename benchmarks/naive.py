"""The usual research loop of best-of-N, to compare the staged one with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from vhsbench.generators.protocol import Generator
from vhsbench.harness.inference.best_of_n import BestOfN
from vhsbench.harness.inference.candidates import candidate
from vhsbench.harness.inference.route import route_of
from vhsbench.verifiers.checks import check_form, check_values
from vhsbench.verifiers.protocol import Verifier


def naive_best_of_n(generator: Generator, verifier: Verifier, prompt: str, seeds: Sequence[int]) -> BestOfN:
    """Encode the text for every candidate, run one candidate a forward, and generate the winner again.

    Raises ScoresError for a score that is not a finite number.
    """
    route, scores = route_of(verifier), []
    for seed in seeds:
        read = route.reads(route.start(generator, generator.encode([prompt]), [seed]))
        scores.append(float(check_form(verifier, verifier.score([prompt], read), 1).score[0]))
    check_values(
        verifier, np.array(scores, np.float32), lambda i: candidate(generator.name, prompt, seeds[i], i)
    )
    index = max(range(len(seeds)), key=scores.__getitem__)
    image = route_of(None).start(generator, generator.encode([prompt]), [seeds[index]])[0]
    return BestOfN(image, index, torch.tensor(scores))
