"""The models of a run as its configuration names them: what judges and what scores, chosen, and built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from vhsbench import generators, verifiers
from vhsbench.generators.nano.world import SHAPES
from vhsbench.harness.common.registry import RegistryError
from vhsbench.harness.config.entries import DetectorConfig, GeneratorConfig, VerifierConfig
from vhsbench.harness.config.run import RunConfig
from vhsbench.harness.geneval.detector import Detector, check_classes, classes_of, judge
from vhsbench.harness.geneval.detector import create as create_detector
from vhsbench.harness.inference.bench import Bench
from vhsbench.verifiers.protocol import Verifier


def chosen_detector(config: RunConfig, prompts: Iterable[Mapping[str, Any]]) -> DetectorConfig:
    """Return the configuration's detector; by default `shapes` where it knows every class of the prompts."""
    known = {name for prompt in prompts for name in classes_of(prompt)} <= set(SHAPES)
    return config.detector or DetectorConfig(name="shapes" if known else "mask2former")


def load_detector(config: RunConfig, prompts: Sequence[dict[str, Any]]) -> Detector:
    """Load the run's detector, which knows every class of its prompts; raises UnknownClass otherwise."""
    chosen = chosen_detector(config, prompts)
    detector = create_detector(chosen.name, config.device, **chosen.options)
    for index, prompt in enumerate(prompts):
        check_classes(detector, prompt, f"prompt {index} of {config.prompt_suite.shown}")
    return detector


def load_bench(
    config: RunConfig, entry: GeneratorConfig, prompts: Sequence[dict[str, Any]], detector: Detector
) -> Bench:
    """Load a generator of the run with the verifiers that score its candidates, and the detector that judges them."""
    generator = generators.create(entry.name, **generator_options(entry, config.device))
    judges = [_load_verifier(wanted, config.device, generator.name) for wanted in config.verifiers_of(entry)]
    return Bench(generator, prompts, judges, partial(judge, detector), entry.shown)


def _load_verifier(entry: VerifierConfig, device: str, generator: str) -> Verifier:
    """Load a verifier of the run under its label, by which rows and errors tell it from others of its kind."""
    made = verifiers.create(entry.name, **verifier_options(entry, device, generator))
    if made.name != entry.shown:
        try:
            made.name = entry.shown
        except AttributeError:
            raise RegistryError(
                f"verifier '{entry.name}' does not let its 'name' be set, so that it cannot be labelled '{entry.shown}'."
            ) from None
    return made


def verifier_options(entry: VerifierConfig, device: str, generator: str) -> dict[str, Any]:
    """Return what the verifier is built with, to score candidates of `generator`."""
    return {"checkpoint": entry.checkpoint, "device": device, "generator": generator, **entry.options}


def generator_options(entry: GeneratorConfig, device: str) -> dict[str, Any]:
    """Return what the generator is built with."""
    return {"device": device, **entry.build_options}
