"""How far variants move scores, features, images and winners: on nano, with its bundled weights.

    python benchmarks/fast_equality.py --out results/performance/equality.csv [--variants fast,fast-fp8]

Every prompt has a pool of candidates, scored by the plain pipeline one at a time, the paper's way, and by the variant
in one batch. Then the plain pipeline's winner is decoded by both. Written is, of each variant and verifier, how far
it moved what: quantiles over candidates (score: absolute; features: the norm of the difference in percent of the plain
one's) and over images (levels: the largest difference, of 255), the share of candidates whose score changed (by more
than variants.MOST_SCORE), and of prompts whose winner did.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from fast import VERIFIERS, twin

from vhsbench import generators, verifiers
from vhsbench.generators.noise import candidate_seed
from vhsbench.harness.common.atomic import write_output
from vhsbench.harness.common.shown import csv_bytes
from vhsbench.harness.cost import variants
from vhsbench.harness.geneval.nano_prompts import nano_prompts
from vhsbench.harness.inference.route import route_of

QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--variants", default="fast,fast-fp8")
    parser.add_argument("--verifiers", default=",".join(VERIFIERS))
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for kind in options.verifiers.split(","):
        prompts, names = prompts_of(options.prompts), options.variants.split(",")
        rows += compared(kind, names, prompts, options.candidates, options.device)
        write_output(options.out, csv_bytes(pd.DataFrame(rows)))
    print(pd.DataFrame(rows).to_string(index=False))


def prompts_of(count: int) -> list[str]:
    """Return prompts of nano, spread evenly over its tasks."""
    every = [str(p["prompt"]) for p in nano_prompts()["evaluation"]]
    return [every[i * len(every) // count] for i in range(count)]


def compared(
    kind: str, names: Sequence[str], prompts: Sequence[str], candidates: int, device: str
) -> list[dict[str, Any]]:
    """Return a row of each figure that each variant may move."""
    generator = generators.create("nano", device=device)
    verifier = verifiers.create(kind, device=device)
    changed = {name: twin(generator, verifier) for name in names}
    for name, pair in changed.items():
        for remark in variants.apply(name, *pair, prompts[:4])[1]:
            print(remark, flush=True)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number, prompt in enumerate(prompts):
        moved = _of_prompt((generator, verifier), changed, number, prompt, candidates)
        for name in names:
            found[name].append(moved[name])
    return [row for name in names for row in _rows({"verifier": kind, "variant": name}, found[name])]


def _rows(of: dict[str, str], found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for figure in ("score", "features percent", "image levels"):
        values = np.concatenate([each[figure] for each in found])
        rows.append({**of, "of": figure, "count": len(values), **_quantiles(values)})
    scores = np.concatenate([each["score"] for each in found])
    changed = {"scores": scores > variants.MOST_SCORE, "winners": [each["winner changed"] for each in found]}
    return rows + [
        {**of, "of": f"{name} changed percent", "count": len(each), "mean": 100 * float(np.mean(each))}
        for name, each in changed.items()
    ]


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(values.mean()), **{n: float(np.quantile(values, q)) for n, q in QUANTILES.items()}}


@torch.inference_mode()
def _of_prompt(
    plain: tuple[Any, Any], changed: dict[str, tuple[Any, Any]], number: int, prompt: str, candidates: int
) -> dict[str, dict[str, Any]]:
    """Compare one prompt's pool by variant: what moved, by candidate, and whether another one wins."""
    seeds = [candidate_seed(0, number, i) for i in range(candidates)]
    one_by_one = [_read(*plain, prompt, [seed]) for seed in seeds]
    scores, features = (torch.cat([each[i] for each in one_by_one]) for i in (0, 1))
    winner = int(scores.argmax())
    image = np.asarray(_image(*plain, prompt, seeds[winner]), np.int16)
    found = {}
    for name, pair in changed.items():
        own_scores, own_features = _read(*pair, prompt, seeds)
        off = (own_features - features).flatten(1).norm(dim=1) / features.flatten(1).norm(dim=1)
        own_image = np.asarray(_image(*pair, prompt, seeds[winner]), np.int16)
        found[name] = {
            "score": (own_scores - scores).abs().numpy(),
            "features percent": 100 * off.numpy(),
            "image levels": np.array([np.abs(own_image - image).max()]),
            "winner changed": int(own_scores.argmax()) != winner,
        }
    return found


def _read(
    generator: Any, verifier: Any, prompt: str, seeds: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scores [B] and visual tokens [B, T, C] of candidates, on the CPU."""
    route, prompts = route_of(verifier), [prompt] * len(seeds)
    state = route.start(generator, generator.encode([prompt]).select([0] * len(seeds)), seeds)
    read = route.reads(state)
    return verifier.score(prompts, read).score.float().cpu(), verifier.visual(prompts, read).float().cpu()


def _image(generator: Any, verifier: Any, prompt: str, seed: int) -> Any:
    route, cond = route_of(verifier), generator.encode([prompt])
    return route.finish(generator, cond, route.start(generator, cond, [seed]), 0)[0]


if __name__ == "__main__":
    main()
