"""Peak memory of strategies: all their models loaded together, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vhsbench.harness.cost.process import MeasuringProcess
from vhsbench.harness.cost.timing import TimingConfig
from vhsbench.harness.strategies.base import Pools, Strategy
from vhsbench.harness.strategies.registry import StrategyError, Template

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Peaks = dict[str, float | None]  # GB; see cost.meters.peak_memory


@dataclass(frozen=True)
class Models:
    """A generator and verifiers (by label: kind and options) that are loaded together, and what runs on them, by name."""

    generator: str
    generator_options: Mapping[str, Any]
    verifiers: Mapping[str, tuple[str, Mapping[str, Any]]]
    strategies: Mapping[str, Strategy]
    prompt: str
    timing: TimingConfig
    threads: int | None = None

    def __str__(self) -> str:
        return f"the memory of {self.generator} with {' and '.join(self.verifiers)}"


def of_its_own(kind: type[Strategy]) -> bool:
    """Return whether a kind of strategy runs other models or stages than a pipeline of one verifier, whose memory is known."""
    return kind.between != "" or kind.refines


def largest(template: Template, size: int, again: Iterable[int]) -> Strategy | None:
    """Return its setting of most candidates and scores in pools of `size`; None if none fits.

    again: the steps that the candidates are made again with.
    """
    scores = np.random.default_rng(0).normal(size=(1, size))
    none = np.zeros((1, size))
    try:
        listed = template.settings(
            Pools(dict.fromkeys(template.verifiers, scores), none, dict.fromkeys(again, none))
        )
    except StrategyError:
        return None
    return max(listed, key=lambda s: (s.n, sum(s.scored(s.n).values())))


def peaks(models: Models, measuring: Path | None = None) -> dict[str, Peaks]:
    """Run every strategy, and return its peaks by name. Raises as MeasuringProcess.

    Resident sets are of the process so far: of what ran before it, too.
    """
    process = MeasuringProcess(models, measuring, serving=_serve)
    process.close()
    found: dict[str, Peaks] = process.opened
    return found


def _serve(models: Models, pipe: Connection, passes: bool) -> None:
    import torch

    from vhsbench import generators, verifiers
    from vhsbench.harness.cost.meters import peak_memory
    from vhsbench.harness.cost.nvml import Gpu
    from vhsbench.harness.strategies.run import run

    if models.threads:
        torch.set_num_threads(models.threads)
    generator = generators.create(models.generator, **models.generator_options)
    judges = {v: verifiers.create(kind, **options) for v, (kind, options) in models.verifiers.items()}
    gpu = Gpu.of(generator.device)
    found = {}
    for name, strategy in models.strategies.items():

        def call(strategy: Strategy = strategy) -> object:
            return run(strategy, generator, judges, models.prompt, range(strategy.n))

        call()  # libraries take their workspaces in a first run
        found[name] = peak_memory(call, generator.device, gpu)
    pipe.send(found)
