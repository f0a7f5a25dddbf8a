"""The configuration of a training: verifier, generator, data and recipe; and its ablations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, model_validator

from vhsbench import generators
from vhsbench.generators.protocol import block_name, blocks_of
from vhsbench.harness.common.files import ending
from vhsbench.harness.common.registry import nearest
from vhsbench.harness.common.settings import CandidateCount, LocalChanges, Strict
from vhsbench.harness.config import yaml_files
from vhsbench.harness.config.entries import NamedGenerator, PromptsConfig
from vhsbench.harness.config.experiments import bundled
from vhsbench.harness.config.local_paths import Base
from vhsbench.harness.config.run import Seeds, read_named
from vhsbench.harness.config.yaml_files import ConfigError
from vhsbench.harness.training.data_config import DataConfig
from vhsbench.verifiers.training.recipe import Recipe

_EXAMPLE = "verifier: {kind: vhs, block: 7}"
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9._+-]+$")]
BASE = "base"  # the training itself, among its ablations


class SourceConfig(NamedGenerator):
    """The generator whose features are read, with its options."""

    elsewhere = {"device": "the engine's 'device'"}


class CompareConfig(Strict):
    """The held-out candidates that a training and its ablations are compared on."""

    prompts: PromptsConfig = PromptsConfig()
    """Held-out prompts."""
    seeds: Seeds = [0]
    """Root seeds of their candidates."""
    pool: CandidateCount = 16
    """Candidates a prompt and seed."""
    batch_size: CandidateCount = 32
    """Candidates made at once."""


class TrainConfig(Recipe):
    """One training. `ablations` are others, by name: the keys that they change, nested as here."""

    name: _Name = "train"
    """Its results go to runs/NAME."""
    generator: SourceConfig
    """The generator whose features are read."""
    data: DataConfig = DataConfig()
    """Where the data is, and how it is made."""
    compare: CompareConfig = CompareConfig()
    """The held-out candidates that it and its ablations are compared on."""
    ablations: Annotated[dict[_Name, dict[str, Any]], LocalChanges()] = {}
    """Other trainings, by name: the keys that they change, nested as here."""

    @property
    def recipe(self) -> Recipe:
        """The part that the engine reads."""
        return Recipe(**{key: getattr(self, key) for key in Recipe.model_fields})

    @model_validator(mode="after")
    def _fits_the_generator(self) -> TrainConfig:
        spec, block = generators.SPECS.get(self.generator.name), self.verifier.block
        if spec is None or block is None:  # a plugin's options are checked when its data is collected
            return self
        steps = generators.steps_of(self.generator.name, self.generator.options)
        if steps != 1:
            raise ValueError(
                f"a vhs reads hidden states of one-step generation, but generator '{spec.name}' takes {steps} steps"
            )
        if blocks_of(block)[-1] >= spec.blocks:
            raise ValueError(f"generator '{spec.name}' has blocks 0 to {spec.blocks - 1}, not block {block}")
        return self

    @model_validator(mode="after")
    def _ablations_are_possible(self) -> TrainConfig:
        if BASE in self.ablations:
            raise ValueError(f"'{BASE}' is the training itself; name the ablation otherwise")
        for name in self.ablations:
            try:
                changed = self.ablation(name)
            except ConfigError as error:
                raise ValueError(str(error)) from None
            if changed.generator != self.generator:
                raise ValueError(
                    f"ablation '{name}' changes the generator, so nothing compares it with the rest"
                )
        return self

    def with_ablations(self, names: Iterable[str]) -> TrainConfig:
        """Return this training with only those ablations. Raises ConfigError for an unknown one."""
        for name in names:
            if name not in self.ablations:
                raise ConfigError(
                    f"'{self.name}' has no ablation '{name}'; {nearest(name, list(self.ablations))}"
                )
        return self.model_copy(update={"ablations": {name: self.ablations[name] for name in names}})

    def ablation(self, name: str) -> TrainConfig:
        """Return the training of the ablation `name`."""
        changed = merged(self.model_dump(exclude={"ablations"}), self.ablations[name])
        changed["name"] = f"{self.name}-{name}"
        return yaml_files.check(changed, f"ablation '{name}'", TrainConfig)


def data_beside(base: TrainConfig, variant: TrainConfig, out: Path) -> TrainConfig:
    """Return `variant` with the data folders of `base`, which is trained in `out`.

    Data of another block is in a neighbouring folder, of the same images, with the captions and verdicts of `base`.
    """
    folder = base.data.folder or out / "data"
    data = {"folder": folder}
    block = variant.verifier.block
    if block is not None and block != base.verifier.block:
        data = {"folder": ending(folder, f"-block-{block_name(block)}"), "rows_of": folder}
    return variant.model_copy(update={"data": variant.data.model_copy(update=data)})


def load_train_config(path: Path, overrides: Iterable[str] = ()) -> TrainConfig:
    """Read a YAML file, or a bundled configuration (train-...) by its name. Raises ConfigError.

    `overrides` are "key.key=value", the value in YAML, its paths relative to the working directory.
    """
    config = read_named(path, bundled(trainings=True), TrainConfig, _EXAMPLE)
    texts = list(overrides)
    data = config.model_dump()
    for text in texts:
        data = merged(data, _override(text))
    where = f"--set {texts[0]}" if len(texts) == 1 else "--set"
    return yaml_files.check(data, where, TrainConfig, base=Base(Path.cwd())) if texts else config


def _override(text: str) -> dict[str, Any]:
    keys, equals, value = text.partition("=")
    try:
        change: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        equals = ""
    if not equals or not all(keys.split(".")):
        raise ConfigError(f"--set {text}: write KEY=VALUE, for example finetune.batch=32.")
    for key in reversed(keys.split(".")):
        change = {key: change}
    return dict(change)


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `change`; nested mappings are merged, all else is replaced."""
    result = dict(base)
    for key, value in change.items():
        before = result.get(key)
        both = isinstance(before, Mapping) and isinstance(value, Mapping)
        result[key] = merged(before, value) if both else value  # type: ignore[arg-type]
    return result
