"""Several runs as one, of more seeds, generators, verifiers or machines, where they are comparable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from vhsbench.generators import steps_of
from vhsbench.harness.config.entries import GeneratorConfig
from vhsbench.harness.config.run import kept_config
from vhsbench.harness.report.combined_costs import combined_costs
from vhsbench.harness.report.same_labels import other_verifier, shared, told_apart
from vhsbench.harness.report.side_by_side import labels
from vhsbench.harness.store.keys import (
    CANDIDATE,
    IN_POOL,
    PIPELINE,
    POOL,
    SCORE,
    VERDICT,
    distinct,
    of_pipeline,
    of_pool,
)
from vhsbench.harness.store.tables import Run, StoreError, environments, load_run
from vhsbench.harness.sweep.identity import JUDGED_BY, differences

# settings that change what a number means, and so must be equal in all runs
_SAME = {"pool": "pool", "prompts": "prompts", "tolerance": "tolerance", "budgets": "budgets_by_unit"}


def load_runs(paths: Sequence[Path]) -> Run:
    """Load the runs in `paths` as one, at the first path. Raises StoreError if they cannot be combined."""
    if not paths:
        raise StoreError("there is no run to report on; name at least one run directory.")
    if twice := [p for i, p in enumerate(paths) if p.resolve() in [q.resolve() for q in paths[:i]]]:
        raise StoreError(f"{twice[0]} is named twice.")
    runs = [load_run(path) for path in paths]
    if len(runs) == 1:
        return runs[0]
    names = labels([str(path) for path in paths])
    runs = told_apart(runs, names)
    for i, other in enumerate(runs):
        for earlier in runs[:i]:
            _check(earlier, other)
        _refuse_repetition(runs[:i], other)
    candidates = pd.concat([r.candidates for r in runs], ignore_index=True).drop_duplicates(
        CANDIDATE, ignore_index=True
    )
    scores = pd.concat([r.scores for r in runs], ignore_index=True).drop_duplicates(SCORE, ignore_index=True)
    _refuse_uneven(candidates, scores)
    notes = tuple(note for r in runs for note in r.notes)
    costs = combined_costs(runs, names)
    verdicts = pd.concat([r.verdicts for r in runs], ignore_index=True).drop_duplicates(
        VERDICT, ignore_index=True
    )
    return Run(runs[0].path, _info(runs), runs[0].prompts, candidates, scores, costs, verdicts, notes)


def _check(first: Run, other: Run) -> None:
    refuse = f"{other.path} cannot be combined with {first.path}:"
    if first.prompts != other.prompts:
        raise StoreError(f"{refuse} their prompts differ.")
    mine, its = map(kept_config, (first, other))
    for key, attribute in _SAME.items():
        a, b = getattr(mine, attribute), getattr(its, attribute)
        if a != b:
            raise StoreError(f"{refuse} '{key}' is {_said(a)} in one and {_said(b)} in the other.")
    entries = {_pool(e): _unscored(e) for e in mine.generators}
    for entry in its.generators:
        if _unscored(entry) != entries.get(_pool(entry), _unscored(entry)):
            raise StoreError(f"{refuse} the generator '{entry.key}' has other settings.")
    for label in mine.kinds:
        if differing := other_verifier(first, other, label):
            raise StoreError(f"{refuse} {differing}.")
    if differing := _other_models(first.info, other.info):
        raise StoreError(f"{refuse} {differing}.")
    _check_candidates(first, other, refuse)


def _pool(entry: GeneratorConfig) -> tuple[str, int]:
    return entry.shown, steps_of(entry.name, entry.options)


def _unscored(entry: GeneratorConfig) -> GeneratorConfig:
    """Return an entry less what scores its candidates."""
    return entry.model_copy(update={"verifiers": None})


def _other_models(mine: dict[str, Any], its: dict[str, Any]) -> str:
    """Describe the first generator or detector that two runs loaded under one name but that differs; "" if none does."""
    known = mine.get("generators", {})
    for name, one in its.get("generators", {}).items():
        if known.get(name, one) != one:
            return (
                f"the generator '{name}' is of another revision ({known[name]} in one and {one} in the other)"
            )
    one, other = (info.get("detector") or {} for info in (mine, its))
    if one and other and one != other:
        key = next(k for k in sorted({*one, *other}) if one.get(k) != other.get(k))
        values = f"{one.get(key, 'unknown')} in one and {other.get(key, 'unknown')} in the other"
        return f"they were judged by different detectors ('{key}' is {values})"
    return _made_otherwise(mine.get("identity", {}), its.get("identity", {}))


def _made_otherwise(mine: dict[str, Any], its: dict[str, Any]) -> str:
    """Describe how the recorded identities of two runs differ; "" if they agree or one has none."""
    known_judges = mine.get("judges", {})
    for label, inputs in its.get("judges", {}).items():
        if found := differences(known_judges.get(label, inputs), inputs):
            return f"they were judged by other models: {', '.join(found[:3])}"
    for key, inputs in its.get("generators", {}).items():
        for name, known in mine.get("generators", {}).items():
            parts = (*JUDGED_BY, "generator") if name == key else JUDGED_BY
            one, other = ({part: made.get(part) for part in parts} for made in (known, inputs))
            if found := differences(one, other):
                return f"they were made of other models: {', '.join(found[:3])}"
    return ""


def _said(value: Any) -> str:
    return str(value.model_dump() if hasattr(value, "model_dump") else value)


def _check_candidates(first: Run, other: Run, refuse: str) -> None:
    """Refuse runs that made other candidates of the same generator, steps and seed: verdicts tell."""
    for generator, steps, seed in shared(first, other):
        pools = [of_pool(run.candidates, generator, steps) for run in (first, other)]
        one, its = (pool[pool["seed"] == seed].set_index(IN_POOL)["correct"].sort_index() for pool in pools)
        whole = one.index.union(its.index)
        unlike = whole[one.reindex(whole).astype(object).ne(its.reindex(whole).astype(object))]
        if len(unlike):
            prompt_id, _, index = unlike[0]
            raise StoreError(
                f"{refuse} both hold the candidates of '{generator}' ({steps} steps) of seed {seed}, but {len(unlike)} of "
                f"{len(whole)} are other ones, by their verdicts, first candidate {index} of prompt {prompt_id}; only the "
                "same candidates can be compared."
            )


def _refuse_repetition(earlier: Sequence[Run], run: Run) -> None:
    """Refuse a run that has no candidates and no verifier that an earlier one lacks."""
    said = {found for r in earlier for found in _contents(r)}
    if earlier and said.issuperset(_contents(run)):
        again = next(r for r in earlier if shared(r, run))
        generator, steps, seed = shared(again, run)[0]
        raise StoreError(
            f"{run.path} cannot be combined with {again.path}: both hold the candidates of '{generator}' ({steps} steps) "
            f"of seed {seed}, and it has no verifier that is not there."
        )


def _contents(run: Run) -> list[tuple[Any, ...]]:
    """List the pools of candidates by seed, alone and with each verifier that scored them."""
    key = [*POOL, "seed"]
    return [
        *((*found, "") for found in distinct(run.candidates, key)),
        *distinct(run.scores, [*key, "verifier"]),
    ]


def _refuse_uneven(candidates: pd.DataFrame, scores: pd.DataFrame) -> None:
    """Refuse a verifier that scored only some of a generator's candidates: it cannot be compared on all."""
    for generator, steps, verifier in distinct(scores, PIPELINE):
        scored = len(of_pipeline(scores, generator, steps, verifier))
        if scored != (judged := len(of_pool(candidates, generator, steps))):
            raise StoreError(
                f"the runs cannot be combined: '{verifier}' scored {scored} of the "
                f"{judged} candidates of '{generator}' ({steps} steps)."
            )


def _info(runs: Sequence[Run]) -> dict[str, Any]:
    """Merge the records: the first run's, with the generators, verifiers and seeds of all."""
    configs = [kept_config(run) for run in runs]
    config = dict(runs[0].info["config"])
    entries: dict[tuple[str, int], dict[str, Any]] = {}
    for of_run in configs:
        for entry in of_run.generators:
            scoring = [v.shown for v in of_run.verifiers_of(entry)]
            known = entries.setdefault(_pool(entry), entry.model_dump(mode="json") | {"verifiers": []})
            known["verifiers"] = list(dict.fromkeys([*known["verifiers"], *scoring]))
    config["generators"] = list(entries.values())
    verifiers = {v.shown: v.model_dump(mode="json") for of_run in reversed(configs) for v in of_run.verifiers}
    config["verifiers"] = [verifiers[label] for label in dict.fromkeys(v for c in configs for v in c.kinds)]
    config["strategies"] = list(dict.fromkeys(text for c in configs for text in c.strategies))
    config["seeds"] = sorted({seed for c in configs for seed in c.seeds})
    merged = {
        k: {name: v for r in reversed(runs) for name, v in r.info.get(k, {}).items()}
        for k in ("checkpoints", "needs", "blocks")
    }
    merged["identity"] = _identity(runs)
    sources = [
        {
            "path": str(r.path),
            "seeds": r.info["config"]["seeds"],
            "environments": environments(r.info),
            "digests": r.info.get("digests"),
        }
        for r in runs
    ]
    failed: dict[str, Any] = {}
    for row in (row for r in runs for row in r.info.get("failed_prompts", [])):
        failed.setdefault(_without_reason(row), row)
    return (
        runs[0].info
        | merged
        | {"config": config, "combined": sources, "failed_prompts": list(failed.values())}
    )


def _identity(runs: Sequence[Run]) -> dict[str, Any]:
    """Merge what the candidates and scores of all are made of; {} if a run, of an earlier version, does not say."""
    known = [run.info.get("identity") or {} for run in runs]
    if not all(known):
        return {}
    made: dict[str, dict[str, Any]] = {}
    for one in known:
        for key, inputs in one.get("generators", {}).items():
            before = made.setdefault(key, inputs)
            scored = (inputs.get("verifiers") or {}) | (before.get("verifiers") or {})
            made[key] = before | {"verifiers": scored}
    return known[0] | {"generators": made}


def _without_reason(row: Any) -> str:
    """Return which pool failed, for runs that both made it; a damaged row stands for itself."""
    return str({k: v for k, v in row.items() if k != "reason"} if isinstance(row, dict) else row)
