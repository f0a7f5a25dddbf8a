"""Check a generator or a verifier by its protocol's rules, on a few candidates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhsbench.generators import rules as of_generators
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.common.rules import Finding, examine
from vhsbench.harness.common.shown import first_line
from vhsbench.harness.inference.route import route_of
from vhsbench.verifiers import rules as of_verifiers

if TYPE_CHECKING:
    from vhsbench.generators.protocol import Generator
    from vhsbench.verifiers.protocol import Verifier


class UnreadableError(VhsbenchError):
    """A verifier that cannot read the generator's candidates; the message is one sentence for a user."""


def check_generator(generator: Generator) -> list[Finding]:
    """Check every rule of generators.rules."""
    return examine(of_generators.RULES, of_generators.Trial(generator))


def check_verifier(verifier: Verifier, generator: Generator) -> list[Finding]:
    """Check every rule of verifiers.rules on candidates of `generator`. Raises UnreadableError for one that it refuses."""
    try:
        verifier.check_host(generator)
    except ValueError as error:
        raise UnreadableError(
            f"verifier '{verifier.name}' cannot be checked on '{generator.name}': {first_line(error)}."
        ) from error
    prompts, route = of_generators.PROMPTS, route_of(verifier)
    state = route.start(generator, generator.encode(list(prompts)), of_generators.SEEDS)
    return examine(of_verifiers.RULES, of_verifiers.Trial(verifier, prompts, route.reads(state)))
