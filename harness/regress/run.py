"""One regression: both sides resolved and scored on the same candidates, compared, timed and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhsbench.generators.checks import as_device
from vhsbench.harness.regress.compare import Candidates, Comparison, Judged, check_size, compare
from vhsbench.harness.regress.gate import GateConfig, Verdict, judge
from vhsbench.harness.regress.points import points
from vhsbench.harness.regress.pool import Pool
from vhsbench.harness.regress.sources import (
    Source,
    SourceError,
    pool_candidates,
    run_candidates,
    run_scores,
    score_pool,
)
from vhsbench.harness.regress.speed import Speed, side_by_side

if TYPE_CHECKING:
    from vhsbench.verifiers.protocol import Verifier

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Regression:
    """A comparison, its verdict, and what they are of. `inputs` names checkpoints and pool by SHA-256."""

    gate: GateConfig
    verdict: Verdict
    comparison: Comparison
    speed: Speed | None
    inputs: dict[str, str]
    pool: Pool | None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; what is not known is None."""
        return _plain(
            {
                "verdict": self.verdict.outcome,
                "reasons": list(self.verdict.reasons),
                "inputs": self.inputs,
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
    """Compare a candidate with its baseline. Two runs need no pool; a checkpoint does. Raises SourceError."""
    as_device(gate.device)
    if gate.threads:
        import torch

        torch.set_num_threads(gate.threads)
    sides = (baseline, candidate)
    if pool is None and not all(s.run for s in sides):
        raise SourceError(
            "checkpoints are compared on a frozen pool: give --pool; `vhsbench pool` makes one."
        )
    generator = pool.manifest.generator if pool else None
    candidates = pool_candidates(pool) if pool else _of_run(baseline)
    at = points(gate, (baseline.verifier, candidate.verifier), *_host(baseline, pool))
    check_size(candidates, at)  # before anything is loaded and scored
    loaded = [None if s.run else s.load(gate.device, generator) for s in sides]
    names = _names(baseline, candidate)
    judged = [
        _scores(s, v, name, pool, candidates, progress)
        for s, v, name in zip(sides, loaded, names, strict=True)
    ]
    comparison = compare(candidates, judged[0], judged[1], gate, at)
    speed = None
    first, second = loaded
    if pool and first and second and gate.timing_repeats:
        speed = side_by_side(first, second, pool, gate.timing_batch, gate.timing_repeats, gate.timing_warm_up)
    inputs = {
        "baseline": first.checkpoint_sha256 if first else str(baseline.run),
        "candidate": second.checkpoint_sha256 if second else str(candidate.run),
        "pool": pool.sha256 if pool else str(baseline.run),
    }
    return Regression(gate, judge(comparison, gate, speed), comparison, speed, inputs, pool)


def _names(baseline: Source, candidate: Source) -> tuple[str, str]:
    if baseline.text != candidate.text:
        return baseline.text, candidate.text
    return baseline.text, f"{candidate.text} (again)"


def _of_run(source: Source) -> Candidates:
    from vhsbench.harness.store.tables import load_run

    assert source.run is not None
    return run_candidates(load_run(source.run))


def _host(baseline: Source, pool: Pool | None) -> tuple[str, int]:
    """The generator of the candidates, and its steps."""
    if pool is not None:
        return pool.manifest.generator, pool.manifest.steps
    from vhsbench.harness.store.tables import load_run

    assert baseline.run is not None
    first = load_run(baseline.run).candidates.iloc[0]
    return str(first["generator"]), int(first["steps"])


def _scores(
    source: Source,
    verifier: Verifier | None,
    name: str,
    pool: Pool | None,
    candidates: Candidates,
    progress: Progress,
) -> Judged:
    if verifier is None:
        from vhsbench.harness.store.tables import load_run

        assert source.run is not None
        return run_scores(load_run(source.run), name, source.verifier, candidates)
    assert pool is not None
    return score_pool(verifier, name, pool, lambda done, of: progress(f"scores of {name}", done, of))


def _plain(value: Any) -> Any:
    """NaN and infinities as None, tuples as lists."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def write(regression: Regression, out: Path) -> None:
    """regression.json, junit.xml, summary.md and, where the pool has pictures, changed_picks.png in `out`."""
    import json

    from vhsbench.harness.common.atomic import write_atomic
    from vhsbench.harness.regress import report

    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(regression.as_dict(), indent=1, allow_nan=False) + "\n"
    write_atomic(out / "regression.json", text.encode())
    write_atomic(out / "junit.xml", report.junit(regression))
    picture = report.picture(regression, out / "changed_picks.png")
    write_atomic(out / "summary.md", report.markdown(regression, picture).encode())
