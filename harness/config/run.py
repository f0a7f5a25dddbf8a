"""A run's configuration: YAML checked by pydantic, with errors that name the file, key and line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    field_validator,
    model_validator,
)

from vhsbench import generators
from vhsbench.harness.common.registry import nearest
from vhsbench.harness.common.settings import (
    Amount,
    AmountOrNone,
    CandidateCount,
    Device,
    Seed,
    Strict,
    Threads,
)
from vhsbench.harness.config import yaml_files
from vhsbench.harness.config.base import Name
from vhsbench.harness.config.entries import (
    ROWS_OF_THEIR_OWN,
    DetectorConfig,
    GeneratorConfig,
    JudgeConfig,
    PromptsConfig,
    SuiteConfig,
    VerifierConfig,
)
from vhsbench.harness.config.experiments import bundled, bundled_text
from vhsbench.harness.config.local_paths import Base
from vhsbench.harness.config.yaml_files import ConfigError, Model
from vhsbench.harness.cost.cost_model import TOLERANCE, parse_budget
from vhsbench.harness.cost.timing import TimingConfig
from vhsbench.harness.strategies.registry import parse as parse_strategy

if TYPE_CHECKING:
    from vhsbench.harness.store.tables import Run

__all__ = ["ConfigError", "RunConfig", "bundled", "default_config", "kept_config", "load_config", "parse"]

T = TypeVar("T")
_EXAMPLE = "generators: [{name: nano}]"


def _twice(values: Sequence[T]) -> T | None:
    """Return the first value that occurs twice."""
    return next((value for i, value in enumerate(values) if value in values[:i]), None)


def _no_seed_twice(seeds: list[int]) -> list[int]:
    if (twice := _twice(seeds)) is not None:
        raise ValueError(f"seed {twice} is given twice")
    return seeds


Seeds = Annotated[list[Seed], Field(min_length=1, max_length=1000), AfterValidator(_no_seed_twice)]


def _is_budget(text: str) -> str:
    value, unit = parse_budget(text)
    if value > _MOST_BUDGET:
        raise ValueError(f"'{text}' is beyond any real run; write at most {_MOST_BUDGET:g} {unit}")
    return text


def _is_strategy(text: str) -> str:
    parse_strategy(text)
    return text


StrategyText = Annotated[str, AfterValidator(_is_strategy)]
BudgetText = Annotated[str, AfterValidator(_is_budget)]
_MOST_BUDGET = 1e9  # ms, TFLOP, GB or J


class RunConfig(Strict):
    """One sweep: pools of candidates, verifiers that score them, and what they cost."""

    one_verifier_a_label: ClassVar[bool] = True

    name: Name = "run"
    """The results go to runs/NAME."""
    generators: Annotated[list[GeneratorConfig], Field(min_length=1)]
    """Pools of candidates."""
    verifiers: list[VerifierConfig] = []
    """What scores them."""
    prompts: PromptsConfig = PromptsConfig()
    """What the candidates are of: nano's or GenEval's prompts; any other suite is given by 'suite'."""
    suite: SuiteConfig | None = None
    """In place of 'prompts': a suite of prompts, with who judges them (docs/judges.md)."""
    judges: Annotated[list[JudgeConfig], Field(min_length=1)] | None = None
    """What judges them: the first says what is right, the others check it (docs/judges.md); by default the suite's."""
    detector: DetectorConfig | None = None
    """By which the judge geneval sees; by default shapes where it knows the prompts' classes, else mask2former."""
    seeds: Seeds = [0]
    """Root seeds: each gives every prompt a pool of its own."""
    pool: CandidateCount = 16
    """Candidates a prompt and seed; serves every N up to it."""
    batch_size: CandidateCount = 32
    """Candidates made at once."""
    budgets: list[BudgetText] | None = None
    """At which pipelines are compared, such as [550ms, 3TFLOP, 24GB, 40J]; by default the times of MLLM w/ CLIP's best of 2, 4 and 6."""
    budgets_ms: list[Annotated[float, Field(gt=0, le=1e9)]] | None = None
    """The same, of times alone (older files)."""
    strategies: list[StrategyText] = []
    """Compared beside best-of-N, such as [cascade:vhs>mllm-clip] (docs/strategies.md)."""
    tolerance: Annotated[float, Field(ge=0, lt=1)] = TOLERANCE
    """By which share a budget may be passed."""
    bootstrap: Amount = 1000
    """Has no effect: intervals are computed, not drawn; older files may have it."""
    gallery_prompts: AmountOrNone = 12
    """How many prompts' pictures are kept."""
    device: Device = "cpu"
    """cpu, cuda, or cuda:1."""
    threads: Threads | None = None
    """CPU threads; by default as many as the machine has."""
    overlap: bool | None = None
    """Judge a batch while the next is generated; by default where that is on a GPU."""
    timing: TimingConfig = TimingConfig()
    """How costs are measured."""

    @field_validator("generators")
    @classmethod
    def _told_apart(cls, entries: list[GeneratorConfig]) -> list[GeneratorConfig]:
        """Refuse generators that files (by `key`) or tables (by what is shown and the steps) could not tell apart."""
        if (twice := _twice([entry.key for entry in entries])) is not None:
            raise ValueError(f"two generators are '{twice}'; give each a label of its own")
        shown = [entry.shown for entry in entries]
        rows = [
            (e.shown, generators.steps_of(e.name, e.options)) for e in entries if shown.count(e.shown) > 1
        ]
        if (same := _twice(rows)) is not None:
            raise ValueError(
                f"two generators are '{same[0]}' of {same[1]} step(s), and would make the same candidates; "
                "leave one out, or give it a label of its own"
            )
        return entries

    @field_validator("verifiers")
    @classmethod
    def _labelled_apart(cls, entries: list[VerifierConfig]) -> list[VerifierConfig]:
        if not cls.one_verifier_a_label:
            return entries
        labels = [v.shown for v in entries]
        if (twice := _twice(labels)) is not None:
            raise ValueError(
                f"two verifiers are '{twice}', but scores are told apart by that name; give each a label of its own"
            )
        if taken := [label for label in labels if label in ROWS_OF_THEIR_OWN]:
            raise ValueError(f"'{taken[0]}' is not a verifier in tables and figures; choose another label")
        return entries

    @field_validator("judges")
    @classmethod
    def _judges_apart(cls, entries: list[JudgeConfig] | None) -> list[JudgeConfig] | None:
        if (twice := _twice([judge.shown for judge in entries or ()])) is not None:
            raise ValueError(f"two judges are '{twice}'; give each a label of its own")
        return entries

    @model_validator(mode="after")
    def _verifiers_are_there(self) -> RunConfig:
        known = [v.shown for v in self.verifiers]
        for entry in self.generators:
            for name in entry.verifiers or ():
                if name not in known:
                    raise ValueError(
                        f"generator '{entry.key}' asks for verifier '{name}', which the run lacks; "
                        f"{nearest(name, known)}"
                    )
        return self

    @model_validator(mode="after")
    def _files_are_told_apart(self) -> RunConfig:
        if self.one_verifier_a_label and (twice := _twice([key for key, *_ in self.pipelines()])) is not None:
            raise ValueError(
                f"the costs of two pipelines would be in one file, '{twice}'; choose another label of a generator or verifier"
            )
        return self

    @model_validator(mode="after")
    def _strategies_have_their_verifiers(self) -> RunConfig:
        known = [v.shown for v in self.verifiers]
        for text in self.strategies:
            for name in parse_strategy(text).verifiers:
                if name not in known:
                    raise ValueError(
                        f"strategy '{text}' asks for verifier '{name}', which the run lacks; {nearest(name, known)}"
                    )
        return self

    @model_validator(mode="after")
    def _drafts_are_made_again(self) -> RunConfig:
        for template in map(parse_strategy, self.strategies):
            if template.kind.refines and not any(self._refined(e, template.fixed) for e in self.generators):
                raise ValueError(
                    f"strategy '{template.text}' needs a generator a second time, with more steps and as large a pool, such as "
                    "{name: nano, options: {steps: 2}, verifiers: []}"
                )
        return self

    def _refined(self, draft: GeneratorConfig, fixed: Mapping[str, float]) -> bool:
        """Return whether another entry makes the candidates of `draft` again, with the steps that are fixed."""
        first = generators.steps_of(draft.name, draft.options)
        return any(
            first < steps == fixed.get("steps", steps)
            for other in self.generators
            if other.shown == draft.shown and self.pool_of(other) >= self.pool_of(draft)
            for steps in [generators.steps_of(other.name, other.options)]
        )

    @model_validator(mode="after")
    def _one_spelling(self) -> RunConfig:
        if self.budgets is not None and self.budgets_ms is not None:
            raise ValueError(
                "'budgets' and 'budgets_ms' are two spellings of one setting; give budgets alone, such as [550ms]"
            )
        return self

    @model_validator(mode="after")
    def _one_kind_of_prompts(self) -> RunConfig:
        if self.suite is not None and self.prompts != PromptsConfig():
            raise ValueError("'prompts' and 'suite' both say what the candidates are of; give one of them")
        return self

    @property
    def judged_by(self) -> list[JudgeConfig]:
        """The run's judges, the first of which says what is right: its own, or the suite's."""
        return self.judges or [
            JudgeConfig.model_validate(entry) for entry in self.prompt_suite.create().judges
        ]

    @property
    def prompt_suite(self) -> SuiteConfig:
        """The suite that the run's prompts are of, given by `suite` or by `prompts`."""
        return self.suite or self.prompts.as_suite()

    @property
    def budgets_by_unit(self) -> dict[str, list[float]]:
        """The budgets in ms, TFLOP, GB and J, by unit; without those that are not given."""
        found: dict[str, list[float]] = {"ms": list(self.budgets_ms)} if self.budgets_ms else {}
        for value, unit in map(parse_budget, self.budgets or ()):
            found.setdefault(unit, []).append(value)
        return found

    @property
    def devices(self) -> list[str]:
        """All that the run names."""
        given = [e.options.get("text_encoder_device") for e in self.generators]
        given += [
            e.options.get("device")
            for e in (*self.verifiers, *(self.judges or ()), self.detector)
            if e is not None
        ]
        return list(dict.fromkeys([self.device, *(str(d) for d in given if d is not None)]))

    @property
    def kinds(self) -> dict[str, str]:
        """The kind of each verifier, by label."""
        return {v.shown: v.name for v in self.verifiers}

    def verifiers_of(self, entry: GeneratorConfig) -> list[VerifierConfig]:
        """Return the verifiers that score the candidates of `entry`."""
        return [v for v in self.verifiers if entry.verifiers is None or v.shown in entry.verifiers]

    def pipelines(self) -> list[tuple[str, GeneratorConfig, VerifierConfig | None, str]]:
        """List what costs are measured of: its name in the run's files, generator, verifier and variant."""
        return [
            ("_".join(filter(None, (entry.key, verifier.shown if verifier else "none", variant))),
             entry, verifier, variant)
            for entry in self.generators
            for verifier in (None, *self.verifiers_of(entry))
            for variant in ("", *self.timing.variants)
        ]  # fmt: skip

    def pool_of(self, entry: GeneratorConfig) -> int:
        """Return how many candidates a prompt and seed have."""
        return entry.pool or self.pool


class PoolConfig(RunConfig):
    """A run's configuration that a pool is made by: it keeps what several checkpoints of one verifier read."""

    one_verifier_a_label: ClassVar[bool] = False


def counterpart(label: str, kind: str, known: Mapping[str, str]) -> str | None:
    """Find a verifier among `known` ones (label -> kind): that of its label and kind, else the only one of its kind."""
    same = [other for other in known if known[other] == kind]
    return label if label in same else same[0] if len(same) == 1 else None


def default_config() -> RunConfig:
    """Return the embedded default, nano."""
    return parse(
        bundled_text("nano"),
        "nano.yaml",
    )


def load_config(path: Path) -> RunConfig:
    """Read a YAML file, or a bundled configuration by its name. Raises ConfigError.

    Paths in a file are relative to it, in a bundled configuration to the working directory; here they are absolute.
    """
    return read_named(path, bundled(), RunConfig, _EXAMPLE)


def load_pool_config(path: Path) -> PoolConfig:
    """Load a pool's configuration, as load_config does a run's."""
    return read_named(path, bundled(), PoolConfig, _EXAMPLE)


def read_named(path: Path, names: list[str], model: type[Model], example: str) -> Model:
    """Read a YAML file, or the bundled configuration of `names` that `path` is. Raises ConfigError."""
    name = str(path)
    if path.exists() or "/" in name or path.suffix:
        return yaml_files.read(path, model, example)
    if name not in names:
        raise ConfigError(f"'{name}' is no file and no bundled configuration; {nearest(name, names)}")
    # what it names is where the user is, or not there yet
    return yaml_files.parse(
        bundled_text(name), f"{name}.yaml", model, example, Base(Path.cwd(), lenient=True)
    )


def parse(text: str, file: str) -> RunConfig:
    """Check a configuration's text; `file` names it in errors. Raises ConfigError."""
    return yaml_files.parse(text, file, RunConfig, _EXAMPLE)


def kept_config(run: Run) -> RunConfig:
    """Return the configuration that a run keeps in its run.json. Raises ConfigError where it can no longer be read."""
    return recorded_config(run.info, run.path)


def recorded_config(info: Mapping[str, Any], path: Path | str) -> RunConfig:
    """Return the configuration in the run.json of the run at `path`; raises as `kept_config`."""
    return yaml_files.check(info["config"], f"{str(path).rstrip('/')}/run.json", RunConfig, under=("config",))
