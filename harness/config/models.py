"""The models of a run as its configuration names them: what judges and what scores, chosen, and built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from vhsbench import generators, verifiers
from vhsbench.generators.nano.world import SHAPES
from vhsbench.harness import judges
from vhsbench.harness.common.registry import RegistryError
from vhsbench.harness.config.entries import DetectorConfig, GeneratorConfig, JudgeConfig, VerifierConfig
from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.cost.variants import apply_to_bench
from vhsbench.harness.geneval.detector import classes_of
from vhsbench.harness.inference.bench import Bench
from vhsbench.harness.judges import Judge
from vhsbench.harness.judges.known import drawn_pairs, nano_pairs
from vhsbench.harness.judges.self_test import check_reference, self_test
from vhsbench.verifiers.protocol import Verifier

Named = TypeVar("Named", Judge, Verifier)


def chosen_detector(config: RunConfig, prompts: Iterable[Mapping[str, Any]]) -> DetectorConfig:
    """Return the configuration's detector; by default `shapes` where it knows every class of the prompts."""
    known = {name for prompt in prompts for name in classes_of(prompt)} <= set(SHAPES)
    return config.detector or DetectorConfig(name="shapes" if known else "mask2former")


def load_judges(config: RunConfig, prompts: Sequence[dict[str, Any]]) -> list[Judge]:
    """Load the run's judges, each under its label, and test them on known pictures.

    Raises JudgeError for one that does not tell these apart, and what judges do for a prompt that they cannot judge by.
    """
    named = {name for prompt in prompts for name in classes_of(prompt)}
    of_nano = config.generators[0].name == "nano" or (named and named <= set(SHAPES))
    loaded, pairs = [], nano_pairs() if of_nano else drawn_pairs()
    for entry in config.judged_by:
        made = judges.create(entry.name, **judge_options(config, entry, prompts, config.device))
        loaded.append(labelled(made, "judge", entry))
        if entry.self_test and "random" not in made.info().values():
            self_test(made, pairs)
            check_reference(made, pairs)
        for index, prompt in enumerate(prompts):
            made.check_prompt(prompt, f"prompt {index} of {config.prompt_suite.shown}")
    return loaded


def judge_options(
    config: RunConfig, entry: JudgeConfig, prompts: Iterable[Mapping[str, Any]], device: str
) -> dict[str, Any]:
    """Return what the judge is built with: its own options, and the run's detector, device and generator if it takes them."""
    known: dict[str, Any] = {"device": device, "generator": config.generators[0].name}
    if entry.name == "geneval" and "detector" not in entry.options:
        chosen = chosen_detector(config, prompts)
        known |= {"detector": chosen.name, "options": chosen.options}
    return {
        key: value for key, value in known.items() if judges.REGISTRY.takes(entry.name, key)
    } | entry.options


def load_bench(
    config: RunConfig, entry: GeneratorConfig, prompts: Sequence[dict[str, Any]], judged_by: Sequence[Judge]
) -> Bench:
    """Load a generator of the run with the verifiers that score its candidates, and what judges them; apply its variant.

    Raises VariantError where that moves results too far.
    """
    generator = generators.create(entry.name, **generator_options(entry, config.device))
    scored_by = [
        labelled(
            verifiers.create(wanted.name, **verifier_options(wanted, config.device, generator.name)),
            "verifier", wanted,
        )
        for wanted in config.verifiers_of(entry)
    ]  # fmt: skip
    bench = Bench(generator, prompts, scored_by, judged_by, entry.shown)
    if entry.variant:
        apply_to_bench(entry.variant, bench, config.batch_size)
    return bench


def labelled(made: Named, kind: str, entry: VerifierConfig | JudgeConfig) -> Named:
    """Name what was made by its entry's label, by which rows and errors tell it from others of its kind."""
    if made.name != entry.shown:
        try:
            made.name = entry.shown
        except AttributeError:
            raise RegistryError(
                f"{kind} '{entry.name}' does not let its 'name' be set, so that it cannot be labelled '{entry.shown}'."
            ) from None
    return made


def verifier_options(entry: VerifierConfig, device: str, generator: str) -> dict[str, Any]:
    """Return what the verifier is built with, to score candidates of `generator`."""
    return {"checkpoint": entry.checkpoint, "device": device, "generator": generator, **entry.options}


def generator_options(entry: GeneratorConfig, device: str) -> dict[str, Any]:
    """Return what the generator is built with."""
    return {"device": device, **entry.build_options}
