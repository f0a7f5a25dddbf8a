"""Run one regression: score both sides on the same candidates, compare and time them, and decide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch

from vhsbench.generators.checks import as_device
from vhsbench.harness.common.registry import nearest
from vhsbench.harness.config.run import counterpart, kept_config
from vhsbench.harness.cost.environment import git_commit
from vhsbench.harness.regress.compare import Comparison, check_size, compare
from vhsbench.harness.regress.gate import GateVerdict, decide
from vhsbench.harness.regress.gate_config import GateConfig
from vhsbench.harness.regress.points import points
from vhsbench.harness.regress.pool import Pool, load_pool
from vhsbench.harness.regress.scores import (
    Floats,
    LabeledCandidates,
    VerifierScores,
    pool_candidates,
    run_candidates,
    run_scores,
    score_pool,
)
from vhsbench.harness.regress.sources import Source, SourceError, resolve
from vhsbench.harness.regress.speed import Speed, side_by_side
from vhsbench.harness.regress.strategies import duels, shared
from vhsbench.harness.store.tables import load_run
from vhsbench.harness.sweep.protocol import Protocol, of_run, protocol
from vhsbench.verifiers.protocol import Verifier

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Regression:
    """A comparison, its verdict and its inputs; `inputs` gives checkpoints and pool by SHA-256."""

    gate: GateConfig
    verdict: GateVerdict
    comparison: Comparison
    speed: Speed | None
    inputs: dict[str, str]
    pool: Pool | None
    when: str | None = None  # it began, UTC
    commit: str | None = None  # of the checkout that holds the candidate
    protocols: tuple[Protocol, ...] = ()  # of baseline and candidate

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; an unknown number is None."""
        return _plain(
            {
                "verdict": self.verdict.outcome,
                "when": self.when,
                "commit": self.commit,
                "exit_code": self.verdict.exit_code,
                "reasons": list(self.verdict.reasons),
                "inputs": self.inputs,
                "protocol": [protocol.record for protocol in self.protocols],
                "gate": self.gate.model_dump(mode="json"),
                "comparison": asdict(self.comparison),
                "speed": asdict(self.speed) if self.speed else None,
            }
        )


def regress(
    baseline: Source,
    candidate: Source,
    pool: Pool | None,
    gate: GateConfig,
    progress: Progress = lambda *_: None,
) -> Regression:
    """Compare a candidate with its baseline. Two runs need no pool, a checkpoint does. Raises SourceError."""
    as_device(gate.device)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    if gate.threads:
        torch.set_num_threads(gate.threads)
    sides = (baseline, candidate)
    candidates, generator, steps = _candidates(sides, pool)
    labels = (baseline.verifier, candidate.verifier)
    kinds = (baseline.kind, candidate.kind) if gate.budgets else labels
    at = points(gate, kinds, generator, steps, labels)
    check_size(candidates, at)  # before anything is loaded and scored
    names = (baseline.text, candidate.text)
    if baseline.text == candidate.text:
        names = (baseline.text, f"{candidate.text} (again)")
    strategies = shared(gate, sides)
    first, second = (None if s.run else s.load(gate.device, generator) for s in sides)
    a, b = (
        _scores(side, loaded, name, pool, candidates, progress)
        for side, loaded, name in zip(sides, (first, second), names, strict=True)
    )

    @cache
    def others(verifier: str) -> Floats:
        return _others(verifier, baseline, pool, generator, gate.device, candidates, progress).score

    fought = duels(gate, strategies, candidates, (a.score, b.score), others, (generator, steps))
    comparison = compare(candidates, a, b, gate, at, fought)
    speed = None
    if pool and first and second and gate.timing_repeats:
        speed = side_by_side(first, second, pool, gate.timing_batch, gate.timing_repeats, gate.timing_warm_up)
    inputs = {
        "baseline": first.checkpoint_sha256 if first else str(baseline.run),
        "candidate": second.checkpoint_sha256 if second else str(candidate.run),
        "pool": pool.sha256 if pool else str(baseline.run),
    }
    protocols = tuple(_protocol(side, pool, generator, gate.device) for side in sides)
    commit = git_commit(candidate.folder) if candidate.folder else None
    verdict = decide(comparison, gate, speed)
    return Regression(gate, verdict, comparison, speed, inputs, pool, began, commit, protocols)


def compare_named(
    baseline: str, candidate: str, pool: Path | str | None = None, gate: GateConfig | None = None
) -> Regression:
    """Compare two verifiers named as `vhsbench regress` names them: registered, checkpoints, runs, accepted baselines.

    pool: the folder of a frozen pool, which checkpoints need and two runs do not; gate: by default GateConfig().
    Raises SourceError, PoolError and what loading raises.
    """
    frozen = load_pool(Path(pool)) if pool is not None else None
    return regress(resolve(baseline), resolve(candidate), frozen, gate or GateConfig())


def _protocol(source: Source, pool: Pool | None, generator: str, device: str) -> Protocol:
    """Return the protocol of a run, or of a checkpoint on the pool."""
    if source.run is not None:
        return of_run(load_run(source.run))
    assert pool is not None
    made = pool.manifest.identity
    scored = {"verifiers": {source.verifier: source.identity(device, generator)}}
    return protocol(pool.prompts, pool.manifest.seeds, [made | scored] if made else [])


def _candidates(sides: tuple[Source, Source], pool: Pool | None) -> tuple[LabeledCandidates, str, int]:
    """Return the candidates of the pool, or else of the baseline's run; their generator and its steps."""
    if pool is not None:
        return pool_candidates(pool), pool.manifest.generator, pool.manifest.steps
    baseline, candidate = (s.run for s in sides)
    if baseline is None or candidate is None:
        raise SourceError(
            "checkpoints are compared on a frozen pool: give --pool; `vhsbench pool` makes one."
        )
    run = load_run(baseline)
    first = run.candidates.iloc[0]
    return run_candidates(run), str(first["generator"]), int(first["steps"])


def _scores(
    source: Source,
    verifier: Verifier | None,
    name: str,
    pool: Pool | None,
    candidates: LabeledCandidates,
    progress: Progress,
) -> VerifierScores:
    if source.run is not None:
        return run_scores(load_run(source.run), name, source.verifier, candidates)
    assert verifier is not None
    assert pool is not None
    return score_pool(verifier, name, pool, lambda done, of: progress(f"scores of {name}", done, of))


def _others(
    name: str,
    baseline: Source,
    pool: Pool | None,
    generator: str,
    device: str,
    candidates: LabeledCandidates,
    progress: Progress,
) -> VerifierScores:
    """Return the scores of a verifier that is no side's own: the baseline's run has them, or the pool is scored."""
    if baseline.run is not None:
        run = load_run(baseline.run)
        kinds = kept_config(run).kinds
        label = counterpart(name, name, kinds)
        if label is None:
            raise SourceError(
                f"the run {baseline.run} has no verifier '{name}', which a strategy of the gate asks for; {nearest(name, list(kinds))}"
            )
        return run_scores(run, name, label, candidates)
    return _scores(
        Source(name, name), Source(name, name).load(device, generator), name, pool, candidates, progress
    )


def _plain(value: Any) -> Any:
    """Turn NaN and infinities into None, tuples into lists."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value
