"""Verifiers of several runs under one label: the same one, or told apart by the runs' names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vhsbench.harness.config.entries import LONGEST_LABEL
from vhsbench.harness.config.run import RunConfig, kept_config
from vhsbench.harness.inference.route import advance_from
from vhsbench.harness.store.keys import POOL, distinct
from vhsbench.harness.store.tables import Run, StoreError
from vhsbench.harness.strategies.registry import parse
from vhsbench.harness.sweep.identity import differences


def shared(one: Run, other: Run) -> list[tuple[Any, ...]]:
    """List the (generator, steps, seed) of candidates that both runs have."""
    key = [*POOL, "seed"]
    there = set(distinct(other.candidates, key))
    return [found for found in distinct(one.candidates, key) if found in there]


def other_verifier(one: Run, other: Run, label: str) -> str:
    """Describe how the verifiers of that label in two runs differ; "" if they do not, or one run has none."""
    entries = [next((v for v in kept_config(r).verifiers if v.shown == label), None) for r in (one, other)]
    mine, its = entries
    if mine is None or its is None:
        return ""
    if mine.name != its.name:
        return f"the verifier '{label}' is of kind '{mine.name}' in one and '{its.name}' in the other"
    if mine.options != its.options:
        return f"the verifier '{label}' has other settings"
    known, found = (run.info.get("checkpoints", {}).get(label) for run in (one, other))
    if known != found and None not in (known, found):
        return f"the verifier '{label}' is another checkpoint ({known} in one and {found} in the other)"
    said = [
        part
        for key, a in _made(one).items()
        if (b := _made(other).get(key)) is not None
        for part in differences(_of(a, label), _of(b, label))
    ]
    return f"they were made of other models: {', '.join(said[:3])}" if said else ""


def _made(run: Run) -> Mapping[str, Any]:
    """Return what each generator's rows were made of, by its key; nothing where an earlier version did not say."""
    found: Mapping[str, Any] = run.info.get("identity", {}).get("generators", {})
    return found


def _of(made: Mapping[str, Any], label: str) -> dict[str, Any]:
    verifiers = made.get("verifiers") or {}
    return {"verifiers": {label: verifiers[label]}} if label in verifiers else {}


def told_apart(runs: Sequence[Run], names: Sequence[str]) -> list[Run]:
    """Rename verifiers that are different ones under one label and scored the same candidates: LABEL@RUN.

    The first run's notes say so. Raises StoreError where the runs' `names` give no label.
    """
    renamed: list[dict[str, str]] = [{} for _ in runs]
    notes = []
    for label in dict.fromkeys(label for run in runs for label in kept_config(run).kinds):
        groups = _groups(runs, label)
        if len(groups) < 2 or not _meet(runs, groups):
            continue
        new = [_named(label, names[group[0]]) for group in groups]
        _check_new(runs, label, new)
        for group, name in zip(groups, new, strict=True):
            for i in group:
                renamed[i][label] = name
        where = " and ".join(str(runs[group[0]].path) for group in groups)
        notes.append(
            f"'{label}' is a different verifier in {where}: shown as {' and '.join(new)}; a 'label' in a run's "
            "configuration gives a verifier another name."
        )
    found = [_renamed(run, of_run) for run, of_run in zip(runs, renamed, strict=True)]
    return [replace(found[0], notes=(*notes, *found[0].notes)), *found[1:]]


def _groups(runs: Sequence[Run], label: str) -> list[list[int]]:
    """Sort the runs that have the label by whether it is the same verifier."""
    groups: list[list[int]] = []
    for i, run in enumerate(runs):
        if label in kept_config(run).kinds:
            mine = next((g for g in groups if not other_verifier(runs[g[0]], run, label)), None)
            if mine is None:
                groups.append([i])
            else:
                mine.append(i)
    return groups


def _meet(runs: Sequence[Run], groups: Sequence[Sequence[int]]) -> bool:
    """Return whether runs of two groups have candidates in common."""
    return any(
        shared(runs[i], runs[k])
        for a, one in enumerate(groups)
        for other in groups[:a]
        for i in one
        for k in other
    )


def _named(label: str, run: str) -> str:
    return f"{label}@{re.sub('[^A-Za-z0-9._-]+', '-', run)}"[:LONGEST_LABEL]


def _check_new(runs: Sequence[Run], label: str, new: Sequence[str]) -> None:
    taken = {known for run in runs for known in kept_config(run).kinds}
    if len({*new}) < len(new) or taken & {*new}:
        raise StoreError(
            f"'{label}' is a different verifier in {' and '.join(str(run.path) for run in runs)}, and their folders give no "
            "names to tell them apart; rename one, or give the verifier a 'label' in its run's configuration."
        )


def _renamed(run: Run, names: Mapping[str, str]) -> Run:
    """Return the run with other labels of verifiers, in tables and run.json."""
    if not names:
        return run

    def keyed(found: Mapping[str, Any]) -> dict[str, Any]:
        return {names.get(key, key): value for key, value in found.items()}

    config = RunConfig.model_validate(run.info["config"])
    entries = [
        entry if entry.verifiers is None else entry.model_copy(
            update={"verifiers": [names.get(v, v) for v in entry.verifiers]}
        )
        for entry in config.generators
    ]  # fmt: skip
    verifiers = [v.model_copy(update={"label": names.get(v.shown, v.label)}) for v in config.verifiers]
    templates = [parse(text) for text in config.strategies]
    strategies = [replace(t, verifiers=tuple(names.get(v, v) for v in t.verifiers)).text for t in templates]
    update = {"generators": entries, "verifiers": verifiers, "strategies": strategies}
    info = dict(run.info) | {key: keyed(run.info.get(key, {})) for key in ("checkpoints", "needs", "blocks")}
    info["config"] = config.model_copy(update=update).model_dump(mode="json")
    if _made(run):
        made = {
            key: dict(inputs) | {"verifiers": keyed(inputs.get("verifiers") or {})}
            for key, inputs in _made(run).items()
        }
        info["identity"] = dict(run.info["identity"]) | {"generators": made}
    scores, costs = (
        table.assign(verifier=table["verifier"].replace(dict(names))) for table in (run.scores, run.costs)
    )
    stages = {advance_from(label): advance_from(name) for label, name in names.items()}
    return replace(run, info=info, scores=scores, costs=costs.assign(stage=costs["stage"].replace(stages)))
