"""A small frozen pool of nano, its bundled VHS, and copies of that damaged by noise."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vhsbench.verifiers.nano
from vhsbench.harness.common.tasks import TAGS
from vhsbench.harness.config.run import parse
from vhsbench.harness.regress.pool import Pool, make_pool
from vhsbench.harness.regress.scores import LabeledCandidates, VerifierScores

CONFIG = """
generators: [{name: nano}]
verifiers: [{name: vhs}, {name: mllm-clip}, {name: mllm-ae}]
prompts: {source: nano, split: validation, limit: 48}
pool: 6
batch_size: 24
"""


@pytest.fixture(scope="session")
def pool(tmp_path_factory) -> Pool:
    return make_pool(parse(CONFIG, "pool.yaml"), tmp_path_factory.mktemp("pool") / "frozen")


@pytest.fixture(scope="session")
def damaged(tmp_path_factory) -> Callable[[float], Path]:
    """The bundled VHS with noise on every matrix, `amount` times that matrix's own spread."""

    def copy(amount: float) -> Path:
        folder = tmp_path_factory.mktemp("damaged") / f"noise-{amount}"
        shutil.copytree(vhsbench.verifiers.nano.WEIGHTS / "vhs", folder)
        random = torch.Generator().manual_seed(0)
        tensors = load_file(folder / "model.safetensors")
        for name, weight in tensors.items():
            if weight.dim() == 2:
                noise = torch.randn(weight.shape, generator=random) * weight.float().std()
                tensors[name] = (weight.float() + amount * noise).half()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return copy


def _simulated(
    rng: np.random.Generator, prompts: int, size: int, skills: tuple[float, float], seeds: int = 1
) -> tuple[LabeledCandidates, VerifierScores, VerifierScores]:
    """LabeledCandidates whose scores are their verdicts times a skill, plus noise; two verifiers share half of it."""
    rows = prompts * seeds
    ease = np.repeat(rng.uniform(0.2, 0.9, prompts), seeds)
    correct = rng.random((rows, size)) < ease[:, None]
    shared = rng.standard_normal((rows, size))

    def scored(name: str, skill: float) -> VerifierScores:
        score = skill * correct + shared + rng.standard_normal((rows, size))
        p_yes = 1 / (1 + np.exp(-score))
        return VerifierScores(name, score, p_yes, 1 - p_yes)

    texts = [{"tag": TAGS[p % 6], "prompt": f"prompt {p}"} for p in range(prompts)]
    candidates = LabeledCandidates(
        texts, np.repeat(np.arange(prompts), seeds), np.tile(np.arange(seeds), prompts), correct
    )
    return candidates, scored("baseline", skills[0]), scored("candidate", skills[1])


@pytest.fixture
def simulated() -> Callable[..., tuple[LabeledCandidates, VerifierScores, VerifierScores]]:
    """(rng, prompts, size, skills, seeds) -> candidates, baseline, candidate."""
    return _simulated
