"""A run's configuration: YAML checked by pydantic, with errors that name the file, key and line."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

import generators
import verifiers
from generators.registry import Registry, nearest
from harness.cost.variants import VARIANTS
from harness.geneval.detector import REGISTRY as DETECTORS

Positive = Annotated[int, Field(ge=1)]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one sentence for a user."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GeneratorConfig(_Strict):
    """One pool of candidates.

    `label` is its name in tables (the generator's own otherwise); `verifiers` names those that score it
    (all otherwise); `pool` overrides the run's; `drift` says how far its weights were moved from those
    that the verifiers were trained on, as a share of a LoRA epoch (the paper's Table 7).
    """

    name: str
    options: dict[str, Any] = {}
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9._+-]+$")] | None = None
    verifiers: list[str] | None = None
    pool: Positive | None = None
    drift: Annotated[float, Field(ge=0)] | None = None

    @property
    def shown(self) -> str:
        """Its name in the run's tables."""
        return self.label or self.name

    @property
    def key(self) -> str:
        """Its name in the run's files, which no other entry of the run has."""
        steps = self.options.get("steps")
        return self.shown if steps is None else f"{self.shown}_steps={steps}"

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return _registered(generators.REGISTRY, name)


class VerifierConfig(_Strict):
    name: str
    checkpoint: str | None = None
    options: dict[str, Any] = {}

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


PRESETS: dict[str, dict[str, Any]] = {
    "smoke": {"repeats": 3, "warm_up": 1},
    "paper": {"repeats": 64, "min_seconds": 60.0},
    "mlperf": {"repeats": 1024, "min_seconds": 600.0, "timeout_s": 14400.0},
}


class TimingConfig(_Strict):
    """How cells are measured. A preset sets what is not given, and nothing given may fall below it."""

    preset: Literal["smoke", "paper", "mlperf"] | None = None
    best_of_n: tuple[Positive, ...] = (1, 2, 4, 8)
    batch_sizes: tuple[Annotated[int, Field(ge=2)], ...] = ()  # of batched runs, beside one at a time
    repeats: Positive = 15
    min_seconds: Annotated[float, Field(ge=0)] = 0.0
    warm_up: Annotated[int, Field(ge=0)] = 3
    timeout_s: Annotated[float, Field(gt=0)] = 3600.0
    threads: Positive | None = None  # CPU threads while measuring; by default as the run's
    variants: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        preset = PRESETS.get(str(given.get("preset"))) if isinstance(given, dict) else None
        return {**preset, **given} if preset else given

    @model_validator(mode="after")
    def _not_below(self) -> TimingConfig:
        for key, floor in PRESETS.get(self.preset or "", {}).items():
            if getattr(self, key) < floor:
                raise ValueError(f"preset '{self.preset}' asks for {key} of at least {floor:g}")
        return self

    @field_validator("variants")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in VARIANTS:
                raise ValueError(f"unknown variant '{name}'; {nearest(name, sorted(VARIANTS))}")
        return names


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
    overlap: bool | None = None  # judge a batch while the next is generated; None: where that is on a GPU
    timing: TimingConfig = TimingConfig()

    @field_validator("generators")
    @classmethod
    def _told_apart(cls, entries: list[GeneratorConfig]) -> list[GeneratorConfig]:
        keys = [entry.key for entry in entries]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"two generators are '{twice[0]}'; give each a label of its own")
        return entries

    @model_validator(mode="after")
    def _verifiers_are_there(self) -> RunConfig:
        known = [v.name for v in self.verifiers]
        for entry in self.generators:
            for name in entry.verifiers or ():
                if name not in known:
                    raise ValueError(
                        f"generator '{entry.key}' asks for verifier '{name}', which the run lacks; "
                        f"{nearest(name, known)}"
                    )
        return self

    def verifiers_of(self, entry: GeneratorConfig) -> list[VerifierConfig]:
        """Those that score the candidates of `entry`."""
        return [v for v in self.verifiers if entry.verifiers is None or v.name in entry.verifiers]

    def pool_of(self, entry: GeneratorConfig) -> int:
        """Candidates a prompt and seed."""
        return entry.pool or self.pool


def _registered(registry: Registry[Any], name: str) -> str:
    if name not in registry:
        raise ValueError(f"unknown {registry.kind} '{name}'; {nearest(name, registry.names())}")
    return name


def default_config() -> RunConfig:
    """The embedded default, nano."""
    return parse(files("harness").joinpath("configs/nano.yaml").read_text(), "nano.yaml")


def bundled() -> list[str]:
    """Names of the configurations that ship with the package."""
    return sorted(f.name.removesuffix(".yaml") for f in files("harness").joinpath("configs").iterdir())


def load_config(path: Path) -> RunConfig:
    """Read a YAML file, or a bundled configuration by its name. Raises ConfigError."""
    name = str(path)
    if not path.exists() and "/" not in name and not path.suffix:
        if name not in bundled():
            raise ConfigError(f"'{name}' is no file and no bundled configuration; {nearest(name, bundled())}")
        return parse(files("harness").joinpath(f"configs/{name}.yaml").read_text(), f"{name}.yaml")
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
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        # no mark: a character that YAML forbids, an impossible date, a key that is a list, endless nesting
        said = str(error).strip().partition("\n")[0].rstrip(".")
        raise ConfigError(f"{file}: not YAML: {said}.") from error
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
    where = f"{file}, line {_line(tree, place)}, key '{key}'" if place else file
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
