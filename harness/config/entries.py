"""The entries of a run's configuration: generators, verifiers, judges, the detector, prompts, the suite."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from vhsbench import generators, verifiers
from vhsbench.generators import specs
from vhsbench.generators.checks import check_dtype, check_options
from vhsbench.generators.protocol import read_block
from vhsbench.harness.common.settings import HUB_ID, TAG, Amount, CandidateCount, Local, LocalOptions, Strict
from vhsbench.harness.config.base import Name, Registered
from vhsbench.harness.geneval.detector import REGISTRY as DETECTORS
from vhsbench.harness.judges import REGISTRY as JUDGES
from vhsbench.harness.suites import REGISTRY as SUITES
from vhsbench.harness.suites import Suite
from vhsbench.harness.suites import create as create_suite
from vhsbench.harness.suites.base import own_copy

_FOLDER_OR_HUB = Local(names="random", other=HUB_ID)
LoraPath = Annotated[str, Field(min_length=1)]


class NamedGenerator(Registered):
    """A generator by name, with its options; their values are checked where its family is known."""

    registry = generators.REGISTRY

    name: str
    """A registered generator: `vhsbench list generators`."""
    options: Annotated[dict[str, Any], LocalOptions({"weights": _FOLDER_OR_HUB})] = {}
    """What its factory takes: steps, weights, resolution, dtype, ... (docs/generators.md)."""

    @field_validator("options")
    @classmethod
    def _possible_values(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if (spec := generators.SPECS.get(info.data.get("name", ""))) is not None:
            check_options(spec, options)
        return options


class GeneratorConfig(NamedGenerator):
    """One pool of candidates.

    `label` is its name in tables (the generator's own otherwise); `verifiers` names those that score it, by label
    (all otherwise); `pool` overrides the run's. `lora` is a folder or file of LoRA weights, or "bundled"
    (nano's), added to the generator's at `lora_strength`; `drift` says how far that moved it, as a
    share of a LoRA epoch (the paper's Table 7), by default the strength. `variant` is how the pool is made and scored;
    its name is added to the entry's, so that its candidates are never mixed with plain ones.
    """

    elsewhere = {"device": "the run's own 'device'"}

    label: Name | None = None
    """Its name in tables and files; by default the generator's own."""
    verifiers: list[str] | None = None
    """Labels of the verifiers that score its candidates; by default all."""
    pool: CandidateCount | None = None
    """Candidates a prompt and seed, in place of the run's."""
    lora: Annotated[LoraPath | None, Local(names="bundled")] = None
    """LoRA weights added to it: a file, a folder, or "bundled" (nano's)."""
    lora_strength: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """How strongly they are added."""
    variant: Literal["fast"] | None = None
    """How its candidates are made and scored, if not by the plain pipeline (docs/cost.md#variants); added to its name."""
    drift: Annotated[float, Field(ge=0, le=1000)] | None = None
    """How far that moved it, as a share of a LoRA epoch (the paper's Table 7); by default the strength."""

    @property
    def shown(self) -> str:
        """Its name in the run's tables."""
        drifted = f"{self.name}+lora-{self.lora_strength:g}" if self.lora else self.name
        return "+".join(filter(None, (self.label or drifted, self.variant)))

    @property
    def build_options(self) -> dict[str, Any]:
        """What the generator is built with, less the device."""
        lora = {"lora": self.lora, "lora_strength": self.lora_strength} if self.lora else {}
        return {**self.options, **lora}

    @property
    def moved(self) -> float:
        """How far its weights are from those that the verifiers were trained on."""
        return (self.lora_strength if self.lora else 0.0) if self.drift is None else self.drift

    @property
    def key(self) -> str:
        """Its name in the run's files, which no other entry of the run has."""
        steps = self.options.get("steps")
        return self.shown if steps is None else f"{self.shown}_steps={steps}"

    @model_validator(mode="after")
    def _one_lora(self) -> GeneratorConfig:
        if self.options.keys() & {"lora", "lora_strength"}:
            raise ValueError("a LoRA is named by the entry's own 'lora' and 'lora_strength', not in options")
        if self.lora is None and "lora_strength" in self.model_fields_set and self.lora_strength != 1.0:
            raise ValueError("'lora_strength' is of a 'lora', which is not given")
        return self


LONGEST_LABEL = 48
_LABEL = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._@-]{{0,{LONGEST_LABEL - 1}}}")
ROWS_OF_THEIR_OWN = ("none", "oracle", "random")  # where tables and figures name a verifier


def _label(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise ValueError(
            f"'{text}' names files and strategies; use at most {LONGEST_LABEL} letters, digits, '.', '_', '-' and '@', a letter, digit "
            "or '_' first"
        )
    return text


class VerifierConfig(Registered):
    """What scores candidates: a kind by `name`, and `label`, its name in tables and figures (the kind's otherwise).

    Its options may give another device than the run's, and the `generator` that it was trained on where that is not
    the one it scores.
    """

    registry = verifiers.REGISTRY
    elsewhere = {"checkpoint": "the entry's own 'checkpoint'"}

    name: str
    """A registered kind of verifier: `vhsbench list verifiers`."""
    label: Annotated[str, AfterValidator(_label)] | None = None
    """Its name in tables and files; by default the kind. Several of one kind need a label each."""
    checkpoint: Annotated[str | None, _FOLDER_OR_HUB] = None
    """A folder, a hub id (owner/name@revision) or "random"; by default the bundled or published one."""
    options: Annotated[
        dict[str, Any], LocalOptions({"normalization": Local(), "clip": Local(other=HUB_ID)})
    ] = {}
    """What its factory takes: block, normalization, clip, dtype, device, generator (docs/verifiers.md)."""

    @property
    def shown(self) -> str:
        """Its name in the run's tables and files, which no other verifier of the run has."""
        return self.label or self.name

    @field_validator("label")
    @classmethod
    def _no_other_kind(cls, label: str | None, info: ValidationInfo) -> str | None:
        if label and verifiers.REGISTRY.is_builtin(label) and label != info.data.get("name"):
            raise ValueError(f"'{label}' is another kind of verifier; choose another label")
        return label

    @field_validator("options")
    @classmethod
    def _possible_values(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if verifiers.REGISTRY.is_builtin(info.data.get("name", "")):
            read_block(options.get("block"))
            if options.get("dtype") is not None:
                check_dtype(options["dtype"])
            if options.get("generator") is not None:
                specs.get(options["generator"])
        return options


class DetectorConfig(Registered):
    """GenEval's detector by name, with its options."""

    registry = DETECTORS

    name: str
    """A registered detector: mask2former, shapes (of nano's pictures), or a plugin's."""
    options: Annotated[
        dict[str, Any], LocalOptions({"checkpoint": Local(names="random"), "colors": Local(names=TAG)})
    ] = {}
    """What its factory takes: checkpoint, colors, ... (docs/geneval.md)."""


class JudgeConfig(Registered):
    """What judges candidates: a registered judge, or a verifier that reads images (docs/judges.md)."""

    registry = JUDGES

    name: str
    """geneval, a plugin's judge, or a verifier that reads images (docs/judges.md)."""
    label: Annotated[str, AfterValidator(_label)] | None = None
    """Its name in tables; by default its own. Several of one name need a label each."""
    options: Annotated[
        dict[str, Any],
        LocalOptions({"checkpoint": _FOLDER_OR_HUB, "normalization": Local(), "clip": Local(other=HUB_ID)}),
    ] = {}
    """What its factory takes: of geneval, detector (in place of the run's) and its options; of a verifier, its own."""
    self_test: bool = True
    """Whether it must tell known pictures apart before it judges; random weights are not asked to."""

    @property
    def shown(self) -> str:
        """Its name in the run's tables and files, which no other judge of the run has."""
        return self.label or self.name


class PromptsConfig(Strict):
    """`nano`'s own prompts by split, the 553 of `geneval`, or a path to GenEval-format JSON lines."""

    short = "source"

    source: Annotated[str, Local(names="nano|geneval")] = "nano"
    """nano (its own), geneval (the 553), or a file of GenEval's JSON lines."""
    split: Literal["train", "validation", "evaluation"] = "evaluation"
    """Of nano's own prompts."""
    limit: Amount | None = None
    """How many of them: of nano's every task alike, of others the first; by default all."""

    def as_suite(self) -> SuiteConfig:
        """Return the suite that these prompts are of."""
        if self.source == "nano":
            return SuiteConfig(name="nano", options={"split": self.split}, limit=self.limit)
        path = None if self.source == "geneval" else self.source
        return SuiteConfig(name="geneval", path=path, limit=self.limit)


class SuiteConfig(Registered):
    """A suite by name: prompts, who judges their images, and how scores add up (docs/judges.md)."""

    registry = SUITES
    elsewhere = {"path": "the entry's own 'path'"}

    name: str
    """A registered suite: `vhsbench list suites`."""
    path: Annotated[str | None, Local()] = None
    """Your own copy of what does not come with vhsbench: a file, or a folder of them."""
    options: dict[str, Any] = {}
    """What its factory takes: split (nano, t2i-compbench), task (partiprompts)."""
    limit: Amount | None = None
    """How many of its prompts; by default all."""

    @property
    def shown(self) -> str:
        """What it is read from: its own copy, or its name."""
        return self.path or self.name

    def create(self) -> Suite:
        """Make the suite; reads nothing. Raises RegistryError and SuiteError."""
        return create_suite(self.name, self.path, **self.options)

    @model_validator(mode="after")
    def _can_be_made(self) -> SuiteConfig:
        """Refuse what its factory does, and a path that it lacks or has no use for."""
        made = self.create()
        if made.copy:
            own_copy(self.name, self.path, made.copy)
        return self
