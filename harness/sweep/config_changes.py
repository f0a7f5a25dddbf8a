"""Which settings may change when a run is opened again, so that a test can ask it of every new one."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.store.tables import first_difference

# They decide which rows there are, or are known by their value alone: they stay as they were.
SAME = {
    "generators.name", "generators.options", "generators.label", "generators.verifiers", "generators.pool",
    "generators.lora_strength", "generators.variant", "verifiers.name", "verifiers.label", "verifiers.options", "seeds", "pool", "batch_size",
    "timing.best_of_n", "timing.batch_sizes", "timing.repeats", "timing.min_seconds", "timing.warm_up", "timing.visits",
    "timing.timeout_s", "timing.variants",
}  # fmt: skip
# They say where something is, or what it is by default: what counts is the identity of what is found there.
BY_CONTENT = {
    "generators.lora", "verifiers.checkpoint", "prompts.source", "prompts.split", "prompts.limit",
    "suite.name", "suite.path", "suite.options", "suite.limit",
    "judges.name", "judges.label", "judges.options", "detector.name", "detector.options", "device", "threads", "timing.threads",
}  # fmt: skip
# of `options` too, of the bundled models
_OPTIONS_BY_CONTENT = {
    "generators.options.weights", "generators.options.revision", "verifiers.options.normalization",
    "verifiers.options.clip",
}  # fmt: skip
# No row depends on them: they may change at any time, also of a finished run.
FREE = {
    "name", "generators.drift", "judges.self_test", "budgets", "budgets_ms", "tolerance", "bootstrap", "gallery_prompts", "overlap",
    "strategies",    "timing.preset",
}  # fmt: skip


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return the first key that must stay as it was in which two runs' configurations differ, or "".

    `old` may be of an earlier version: settings that it does not have were as they are by default.
    """
    with suppress(ValidationError):  # what is no setting any more is named
        old = RunConfig.model_validate(old).model_dump(mode="json")
    return first_difference(_fixed(old), _fixed(new))


def _fixed(value: Any, path: str = "") -> Any:
    """Return a configuration without what may change."""
    if isinstance(value, list):
        return [_fixed(item, path) for item in value]
    if not isinstance(value, Mapping):
        return value
    kept = {}
    for key, inner in value.items():
        place = f"{path}.{key}" if path else str(key)
        inside = any(known.startswith(f"{place}.") for known in SAME)
        if place in SAME or inside or not _may_change(place):
            kept[key] = _fixed(inner, place)
    return kept


def _may_change(place: str) -> bool:
    listed = BY_CONTENT | FREE | _OPTIONS_BY_CONTENT
    return place in listed or any(known.startswith(f"{place}.") for known in listed)
