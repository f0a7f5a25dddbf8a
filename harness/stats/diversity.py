"""How different the winners of best-of-N are, by features of their pictures: exact over all draws from the pools."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from vhsbench.harness.stats.intervals import Floats, average_by_prompt


def vendi(features: Floats, chances: Floats) -> float:
    """Compute the Vendi score of all winners: 1 where all look the same, at most the number of features.

    features [R, M, D] are of unit length, chances [R, M] each candidate's probability of winning its row. It is the
    exponential of the entropy of the eigenvalues of the kernel of cosines, each winner weighed by its probability.
    """
    f = features.reshape(-1, features.shape[-1])
    weights = chances.reshape(-1, 1) / len(chances)
    # the same eigenvalues, but for zeros, as those of the kernel of all candidates, which is larger
    values = np.linalg.eigvalsh((weights * f).T @ f)
    positive = values[values > 0]
    return float(np.exp(-np.sum(positive * np.log(positive))))


def distance(features: Floats, chances: Floats, prompts: ArrayLike) -> float:
    """Compute the mean of 1 - cosine between the winners of two different prompts; NaN for a single prompt.

    features and chances are as in `vendi`; prompts [R].
    """
    means = average_by_prompt(np.einsum("rm,rmd->rd", chances, features), np.asarray(prompts))
    if len(means) < 2:
        return float("nan")
    pairs = len(means) * (len(means) - 1)
    return float(1 - (np.sum(means.sum(0) ** 2) - np.sum(means**2)) / pairs)
