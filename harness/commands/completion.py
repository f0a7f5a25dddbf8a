"""What a shell completes: names of generators, verifiers and bundled configurations. Light until it is asked."""

from __future__ import annotations


def generators(incomplete: str) -> list[str]:
    from vhsbench.generators import REGISTRY

    return _beginning(incomplete, REGISTRY.names())


def verifiers(incomplete: str) -> list[str]:
    from vhsbench.verifiers import REGISTRY

    return _beginning(incomplete, REGISTRY.names())


def loggers(incomplete: str) -> list[str]:
    from vhsbench.harness.loggers import REGISTRY

    return _beginning(incomplete, REGISTRY.names())


def registered(incomplete: str) -> list[str]:
    return sorted({*generators(incomplete), *verifiers(incomplete)})


def experiments(incomplete: str) -> list[str]:
    from vhsbench.harness.config.experiments import bundled

    return _beginning(incomplete, bundled())


def trainings(incomplete: str) -> list[str]:
    from vhsbench.harness.config.experiments import bundled

    return _beginning(incomplete, bundled(trainings=True))


def configurations(incomplete: str) -> list[str]:
    return sorted([*experiments(incomplete), *trainings(incomplete)])


def _beginning(incomplete: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
