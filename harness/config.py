"""A run's configuration: YAML checked by pydantic, with errors that name the file, key and line."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

import generators
import verifiers
from generators.registry import Registry, nearest
from harness.geneval.detector import REGISTRY as DETECTORS

Positive = Annotated[int, Field(ge=1)]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one sentence for a user."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GeneratorConfig(_Strict):
    name: str
    options: dict[str, Any] = {}

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return _registered(generators.REGISTRY, name)


class VerifierConfig(_Strict):
    name: str
    checkpoint: str | None = None
    options: dict[str, Any] = {}
    without_scoring: bool = False  # also show any candidate judged yes, the paper's "no scoring" (Table 5)

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return _registered(verifiers.REGISTRY, name)


class DetectorConfig(_Strict):
    """GenEval's detector by name, with its options."""

    name: str
    options: dict[str, Any] = {}

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return _registered(DETECTORS, name)


class PromptsConfig(_Strict):
    """`nano`'s own prompts by split, the 553 of `geneval`, or a path to GenEval-format JSON lines."""

    source: str = "nano"
    split: Literal["train", "validation", "evaluation"] = "evaluation"
    limit: Positive | None = None


class TimingConfig(_Strict):
    best_of_n: tuple[Positive, ...] = (1, 2, 4, 8)
    repeats: Positive = 15
    warm_up: Annotated[int, Field(ge=0)] = 3


class RunConfig(_Strict):
    """One sweep: pools of candidates, verifiers that score them, and what they cost."""

    name: str = "run"
    generators: Annotated[list[GeneratorConfig], Field(min_length=1)]
    verifiers: list[VerifierConfig] = []
    prompts: PromptsConfig = PromptsConfig()
    detector: DetectorConfig | None = (
        None  # None: shapes where it knows the prompts' classes, else mask2former
    )
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    pool: Positive = 16
    batch_size: Positive = 32
    budgets_ms: list[Annotated[float, Field(gt=0)]] | None = None
    tolerance: Annotated[float, Field(ge=0, lt=1)] = 0.05
    bootstrap: Positive = 1000
    gallery_prompts: Annotated[int, Field(ge=0)] = 12
    device: str = "cpu"
    threads: Positive | None = None
    timing: TimingConfig = TimingConfig()


def _registered(registry: Registry[Any], name: str) -> str:
    if name not in registry:
        raise ValueError(f"unknown {registry.kind} '{name}'; {nearest(name, registry.names())}")
    return name


def default_config() -> RunConfig:
    """The embedded default, nano."""
    return parse(files("harness").joinpath("configs/nano.yaml").read_text(), "nano.yaml")


def load_config(path: Path) -> RunConfig:
    """Read a YAML file. Raises ConfigError."""
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from error
    return parse(text, str(path))


def parse(text: str, file: str) -> RunConfig:
    """Check a configuration's text; `file` names it in errors. Raises ConfigError."""
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_duplicates(tree, file)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{file}{where}: not YAML: {error.problem}.") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{file}: a configuration is a mapping, with at least 'generators'.")
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        first: Any = error.errors()[0]
        raise ConfigError(_sentence(file, tree, first)) from None


def _sentence(file: str, tree: yaml.Node | None, error: dict[str, Any]) -> str:
    place = [p for p in error["loc"] if isinstance(p, (str, int))]
    key = ".".join(map(str, place))
    where = f"{file}, line {_line(tree, place)}, key '{key}'"
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key; {nearest(str(place[-1]), _known_keys(place[:-1]))}"
    if error["type"] == "missing":
        return f"{where}: is required."
    message = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    given = "" if error["type"] == "value_error" else f", not {error['input']!r}"
    end = "" if (message + given).endswith(("?", ".")) else "."
    return f"{where}: {message[0].lower()}{message[1:]}{given}{end}"


def _known_keys(place: list[str | int]) -> list[str]:
    """The keys that a configuration has at `place`."""
    models: dict[str, type[BaseModel]] = {
        "generators": GeneratorConfig, "verifiers": VerifierConfig,
        "prompts": PromptsConfig, "timing": TimingConfig, "detector": DetectorConfig,
    }  # fmt: skip
    model = models[str(place[0])] if place else RunConfig
    return list(model.model_fields)


def _line(node: yaml.Node | None, place: list[str | int]) -> int:
    """The line (from 1) of the key at `place`, or of its nearest parent."""
    line = 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            pair = next((p for p in node.value if p[0].value == str(part)), None)
            if pair is None:
                break
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _refuse_duplicates(node: yaml.Node | None, file: str) -> None:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ConfigError(f"{file}, line {line}, key '{key.value}': is given twice.")
            seen.add(key.value)
            _refuse_duplicates(value, file)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_duplicates(value, file)
