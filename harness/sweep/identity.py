"""What decides a run's rows: kept with each shard and each measured cell, and compared when the run is opened again.

Models are known by the content of their files, or the commit that they have on the hub, whatever their path.
Nothing is loaded for it, so that a run is checked before hours are spent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vhsbench import generators, verifiers
from vhsbench.harness import judges
from vhsbench.harness.config.entries import GeneratorConfig
from vhsbench.harness.config.models import generator_options, judge_options, verifier_options
from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.cost.environment import device_name, package_version

RESULTS = 1  # raise it when the same inputs give other candidates, verdicts or scores than before
COSTS = 2  # raise it when a pipeline's costs are measured otherwise than before
JUDGED_BY = ("results", "detector", "judge")  # of an identity's inputs: what says which candidates are right
# a new major or minor version of these may compute other bits; a patch may not
LIBRARIES = ("torch", "diffusers", "transformers", "open_clip_torch")

Prompts = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Identity:
    """`inputs`: what the configuration names, by content. `surroundings`: what else may move the last bits.

    `loaded`: what the loaded models said of themselves; empty before they are. Plain JSON.
    """

    inputs: dict[str, Any]
    surroundings: dict[str, Any]
    loaded: dict[str, Any] = field(default_factory=dict)

    def of_prompts(self, prompts: Prompts) -> Identity:
        """Return this identity for a shard of these prompts."""
        return replace(self, inputs=self.inputs | {"prompts": prompts_sha256(prompts)})

    def unlike(self, now: Identity) -> list[str]:
        """Return in which inputs and surroundings `now` differs, in words."""
        return differences(self.inputs, now.inputs) + differences(self.surroundings, now.surroundings)

    def about(self) -> dict[str, Any]:
        """Return what a shard keeps of it."""
        return {"identity": asdict(self)}

    @staticmethod
    def read(about: Mapping[str, Any]) -> Identity | None:
        """Return what a shard kept; None for one of an earlier version, which kept nothing."""
        kept = about.get("identity")
        return Identity(kept["inputs"], kept["surroundings"], kept["loaded"]) if kept else None


def prompts_sha256(prompts: Prompts) -> str:
    return hashlib.sha256("".join(json.dumps(p) + "\n" for p in prompts).encode()).hexdigest()


def of_entry(config: RunConfig, prompts: Prompts, entry: GeneratorConfig) -> Identity:
    """Identify all candidates of one generator, less their own prompts.

    Raises what loading the models would for missing files.
    """
    import torch  # not before: a report compares identities and needs none

    kind = device_kind(config.device)
    inputs = {
        "results": RESULTS,
        "generator": {
            "key": entry.key,
            "shown": entry.shown,
            **({"variant": entry.variant} if entry.variant else {}),
            **generators.REGISTRY.identity(entry.name, **generator_options(entry, kind)),
        },
        "verifiers": {
            v.shown: verifiers.REGISTRY.identity(v.name, **verifier_options(v, kind, entry.name))
            for v in config.verifiers_of(entry)
        },
        **_first_judge(config, prompts, kind),
        "pool": config.pool_of(entry),
        "batch_size": config.batch_size,
        "device": kind,
    }
    return _plain(inputs, {"threads": torch.get_num_threads() if kind == "cpu" else None})


def _first_judge(config: RunConfig, prompts: Prompts, kind: str) -> dict[str, Any]:
    """Identify what says which candidates are right: GenEval's by its detector alone."""
    first = config.judged_by[0]
    found = judges.REGISTRY.identity(first.name, **judge_options(config, first, prompts, kind))
    return {"detector": found} if first.name == "geneval" else {"judge": found}


def of_judges(config: RunConfig, prompts: Prompts) -> dict[str, Identity]:
    """Identify all verdicts of each judge of the run, less their own prompts; raises as `of_entry`."""
    import torch

    kind = device_kind(config.device)
    surroundings = {"threads": torch.get_num_threads() if kind == "cpu" else None}
    found = {}
    for entry in config.judged_by:
        known = judges.REGISTRY.identity(entry.name, **judge_options(config, entry, prompts, kind))
        inputs = {
            "results": RESULTS,
            "judge": {"shown": entry.shown, **known},
            "batch_size": config.batch_size,
        }
        found[entry.shown] = _plain({**inputs, "device": kind}, surroundings)
    return found


def of_costs(
    config: RunConfig, prompts: Prompts, entry: Identity, verifier: str | None, variant: str
) -> Identity:
    """Identify the costs of one pipeline of that generator.

    Times are of one device, which is therefore a surrounding.
    """
    import torch

    inputs = {
        "costs": COSTS,
        "generator": entry.inputs["generator"],
        "verifier": entry.inputs["verifiers"][verifier] if verifier else None,
        "variant": variant,
        "prompt": prompts[0]["prompt"],
        "timing": config.timing.model_dump(mode="json", exclude={"preset", "variants", "threads"}),
    }
    threads = config.timing.threads or config.threads or torch.get_num_threads()
    return _plain(inputs, {"threads": threads, "device": device_name(config.device)})


def device_kind(device: str) -> str:
    """Return "cuda" of "cuda:1": which of a machine's GPUs computes makes no difference."""
    return device.partition(":")[0]


def _plain(inputs: dict[str, Any], surroundings: dict[str, Any]) -> Identity:
    versions = {name: ".".join((package_version(name) or "").split(".")[:2]) for name in LIBRARIES}
    return Identity(as_json(inputs), as_json({"packages": versions, **surroundings}))


def as_json(value: dict[str, Any]) -> dict[str, Any]:
    """Return a value as it is read back: JSON has no tuples."""
    return dict(json.loads(json.dumps(value)))


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return what differs between two identities' inputs, surroundings or loaded models, in words for a user."""
    old, new = dict(_leaves(then)), dict(_leaves(now))
    paths = [path for path in {**new, **old} if old.get(path) != new.get(path)]
    named = {path[:-1] for path in paths if path[-1] == "name"}  # of another name, so all of it is another
    said = [
        _words(path, old.get(path), new.get(path), now)
        for path in paths
        if path[-1] == "name" or not any(path[: len(group)] == group for group in named)
    ]
    return list(dict.fromkeys(said))


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)))
    else:
        yield path, value


_PARTS = {
    "weights": "the weights", "lora": "the LoRA", "checkpoint": "the checkpoint", "colors": "the colour model",
    "normalization": "the normalization", "clip": "the CLIP",
}  # fmt: skip


def _words(path: tuple[str, ...], then: Any, now: Any, whole: Mapping[str, Any]) -> str:
    """Write one leaf that differs; `whole` is what is there now."""
    change = f"({_short(then)} then, {_short(now)} now)"
    kind, *rest = path
    if kind == "results":
        return f"the results of this package {change}"
    if kind == "costs":
        return f"the measuring of this package {change}"
    if kind == "packages":
        return f"{rest[0]} {change}"
    if kind in ("prompts", "prompt"):
        return "the prompts"
    if kind == "threads":
        return f"the number of threads {change}"
    if kind == "device":
        return f"the device {change}"
    owner = "the detector"
    if kind == "judge":
        owner = f"judge '{whole.get('judge', {}).get('shown', '')}'".replace(" ''", "")
    if kind == "generator":
        owner = f"generator '{whole.get('generator', {}).get('key', '')}'"
    elif kind == "verifiers" and rest:
        owner, rest = f"verifier '{rest[0]}'", rest[1:]
    elif kind == "verifier" and rest:
        owner = f"verifier '{(whole.get('verifier') or {}).get('name', then)}'"
    elif kind not in ("detector", "judge"):
        return f"'{'.'.join(path)}' {change}"
    if not rest or rest[0] in ("name", "shown"):
        return f"{owner} {change}" if kind in ("detector", "judge") else owner
    if rest[-1] == "commit":  # whole, so that it can be asked for as the revision
        return f"{_PARTS[rest[0]]} of {owner} (commit {then} then, {now} now)"
    if rest[0] in _PARTS:
        return f"{_PARTS[rest[0]]} of {owner}"
    return f"'{'.'.join(rest)}' of {owner} {change}"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}..."
