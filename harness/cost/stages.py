"""The stages of a pipeline as calls on one candidate: what measuring times and counting counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from vhsbench.harness.inference.route import ENCODE, SCORE, STAGES, route_of

if TYPE_CHECKING:
    from vhsbench.generators.protocol import Generator
    from vhsbench.verifiers.protocol import QuestionTokens, Verifier

Call = Callable[[], object]
Do = Callable[[str, Callable[[], Any]], Any]  # of a stage and its call, returns what the call does


class Watched:
    """Stands for a generator or a verifier: every call of a stage goes through `do`."""

    def __init__(self, target: Any, do: Do) -> None:
        self._target, self._do = target, do

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._target, name)
        if name not in (ENCODE, SCORE, *STAGES):
            return value
        return lambda *args: self._do(name, partial(value, *args))


def each_stage(generator: Generator, verifier: Verifier | None, prompt: str, do: Do) -> None:
    """Let `do` make every stage of one candidate in the order they run, fed what it returned for the one before."""
    route, watched = route_of(verifier), Watched(generator, do)
    cond = watched.encode([prompt])
    state = route.start(watched, cond, [0])
    if verifier is not None:
        reads = route.reads(state)
        Watched(verifier, do).score([prompt], reads)
        for part, call in verifier.parts([prompt], reads).items():
            do(part, call)
        route.finish(watched, cond, state, 0)


def stages(generator: Generator, verifier: Verifier | None, prompt: str) -> dict[str, Call]:
    """Return the stages that a pipeline runs, and the parts of `score`, each ready to be called on one candidate."""
    calls: dict[str, Call] = {}
    # only what a later stage takes runs now: one that runs out of memory is to have rows of its own
    taken = {ENCODE, *route_of(verifier).stages[:-1]} - {SCORE}

    def do(stage: str, call: Callable[[], Any]) -> Any:
        calls[stage] = call
        return call() if stage in taken else None

    each_stage(generator, verifier, prompt, do)
    return calls


def question_tokens(verifier: Verifier | None, prompt: str) -> QuestionTokens | None:
    """Return how long the verifier's question is for this prompt; None where it has no such question."""
    return verifier.question_tokens(prompt) if verifier is not None else None


def end_to_end(
    generator: Generator, verifier: Verifier | None, prompt: str, ns: Sequence[int], batch: int = 1
) -> dict[int, Call]:
    """Return whole best-of-N runs by N; without a verifier only N = 1 means anything."""
    from vhsbench.harness.inference.best_of_n import best_of_n

    def call(n: int) -> Call:
        return lambda: best_of_n(generator, verifier, prompt, range(n), batch)

    return {n: call(n) for n in (ns if verifier is not None else (1,))}
