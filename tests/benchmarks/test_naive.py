"""The naive loop chooses what the staged one does; how much staging saves, when measured:

pytest tests/benchmarks/test_naive.py --benchmark-enable --benchmark-group-by=group
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vhsbench import verifiers
from vhsbench.harness.inference.best_of_n import best_of_n
from vhsbench.verifiers.checks import ScoresError

PROMPT = "a photo of a red circle"
CANDIDATES = (4, 9, 15)
ROUNDS = {"rounds": 9, "warmup_rounds": 2}


@pytest.fixture
def naive_best_of_n(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import naive

    return naive.naive_best_of_n


@pytest.fixture(scope="module")
def vhs():
    return verifiers.create("vhs")


@pytest.mark.parametrize("way", ["staged", "staged_one_at_a_time", "naive"])
@pytest.mark.parametrize("n", CANDIDATES)
def test_best_of_n(benchmark, nano, vhs, naive_best_of_n, n, way):
    benchmark.group = f"best of {n}, nano with VHS"
    n = 2 if benchmark.disabled else n
    ways = {
        "staged": lambda: best_of_n(nano, vhs, PROMPT, range(n), batch=n),
        "staged_one_at_a_time": lambda: best_of_n(nano, vhs, PROMPT, range(n)),
        "naive": lambda: naive_best_of_n(nano, vhs, PROMPT, range(n)),
    }
    found = benchmark.pedantic(ways[way], **ROUNDS)
    expected = naive_best_of_n(nano, vhs, PROMPT, range(n))
    assert found.index == expected.index
    difference = np.abs(np.asarray(found.image, np.int16) - np.asarray(expected.image, np.int16))
    assert difference.max() <= 1  # a batch rounds otherwise than a single candidate does


class Odd:
    """A verifier of latents that gives each candidate the next of some scores."""

    name, needs, block = "odd", "latents", None

    def __init__(self, *scores):
        self.scores = iter(scores)

    def score(self, prompts, features):
        half = torch.full((len(prompts),), 0.5)
        return SimpleNamespace(p_yes=half, p_no=half, score=next(self.scores))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_score_that_is_none_does_not_win(nano, naive_best_of_n, value):
    odd = Odd(torch.tensor([0.5]), torch.tensor([value]), torch.tensor([0.5]))
    with pytest.raises(ScoresError, match=f"'odd' gave candidate 1 of the prompt '{PROMPT}', seed 12"):
        naive_best_of_n(nano, odd, PROMPT, [11, 12, 13])


def test_scores_of_another_shape_do_not_win(nano, naive_best_of_n):
    with pytest.raises(ScoresError, match=r"'odd' gave float32 \[1, 1\] as 'score' of 1 candidate"):
        naive_best_of_n(nano, Odd(torch.ones(1, 1)), PROMPT, [11, 12])
