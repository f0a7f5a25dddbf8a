"""The peak memory of a run's strategies, kept in run.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vhsbench import generators
from vhsbench.harness.config.entries import GeneratorConfig
from vhsbench.harness.config.models import generator_options, verifier_options
from vhsbench.harness.cost.process import Failure
from vhsbench.harness.store.tables import RunStore
from vhsbench.harness.strategies.base import Strategy
from vhsbench.harness.strategies.memory import Models, largest, of_its_own, peaks
from vhsbench.harness.strategies.registry import parse
from vhsbench.harness.sweep.progress import Journal
from vhsbench.harness.sweep.run_log import EVENTS
from vhsbench.harness.sweep.survey import Expected


def measure_memory(expected: Expected, store: RunStore, journal: Journal) -> None:
    """Run the strategies that load several verifiers or refine, each at its largest setting.

    What ran out of memory or time has no row, and a warning in the log.
    """
    place = store.measuring and store.measuring.with_name(f"{store.measuring.name}-memory")
    jobs = [(entry, models) for entry in expected.config.generators for models in _jobs(expected, entry)]
    rows: list[dict[str, Any]] = []
    for done, (entry, models) in enumerate(jobs, 1):
        try:
            found = peaks(models, place)
        except Failure as failure:
            EVENTS.warning("%s was not measured: %s", models, failure.note)
            continue
        finally:
            journal.update("memory of strategies", done, len(jobs))
        where = {"generator": entry.shown, "steps": _steps(entry)}
        rows += [where | {"strategy": text} | peak for text, peak in found.items()]
    store.update(strategy_memory=rows)


def _jobs(expected: Expected, entry: GeneratorConfig) -> Iterator[Models]:
    """Yield what is loaded together for an entry's strategies, by the verifiers that they have."""
    config = expected.config
    judges = {v.shown: v for v in config.verifiers_of(entry)}
    again = {_steps(e) for e in config.generators if e.shown == entry.shown and _steps(e) > _steps(entry)}
    settings: dict[tuple[str, ...], dict[str, Strategy]] = {}
    for template in map(parse, config.strategies):
        if of_its_own(template.kind) and judges.keys() >= {*template.verifiers}:
            setting = largest(template, config.pool_of(entry), again)
            if setting is not None:
                settings.setdefault(tuple(sorted(template.verifiers)), {})[template.text] = setting
    for labels, strategies in settings.items():
        loaded = {v: (judges[v].name, verifier_options(judges[v], config.device, entry.name)) for v in labels}
        yield Models(
            entry.name, generator_options(entry, config.device), loaded, strategies, expected.prompts[0]["prompt"],
            config.timing, config.timing.threads or config.threads,
        )  # fmt: skip


def _steps(entry: GeneratorConfig) -> int:
    return generators.steps_of(entry.name, entry.options)
