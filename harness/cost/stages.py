"""The stages of a pipeline as calls on one candidate: what measuring times and counting counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from vhsbench.generators.protocol import Generator
    from vhsbench.verifiers.mllm import QuestionTokens
    from vhsbench.verifiers.protocol import Verifier

Call = Callable[[], object]

# Which stages the winner alone pays, and which every candidate does, by what the verifier reads.
FIXED = {
    "hidden": ("encode", "tail", "decode"),
    "latents": ("encode", "decode"),
    "images": ("encode",),
    None: ("encode",),
}
PER_CANDIDATE = {
    "hidden": ("noise", "head", "score"),
    "latents": ("noise", "denoise", "score"),
    "images": ("noise", "denoise", "decode", "score"),
    None: ("noise", "denoise", "decode"),
}
PARTS = ("clip", "connector", "llm")  # of the stage score, where the verifier has them


def stages(generator: Generator, verifier: Verifier | None, prompt: str) -> dict[str, Call]:
    """The stages that a pipeline runs, each ready to be called on one candidate."""
    cond, noise = generator.encode([prompt]), generator.noise([0])
    latents = generator.denoise(cond, noise)
    calls: dict[str, Call] = {
        "encode": lambda: generator.encode([prompt]),
        "noise": lambda: generator.noise([0]),
        "decode": lambda: generator.decode(latents),
    }
    if verifier is not None and verifier.needs == "hidden":
        block = verifier.block or 0
        hidden = generator.head(cond, noise, block)
        calls["head"] = lambda: generator.head(cond, noise, block)
        calls["tail"] = lambda: generator.tail(hidden)
        return calls | _score(verifier, prompt, hidden.features)
    calls["denoise"] = lambda: generator.denoise(cond, noise)
    if verifier is None:
        return calls
    reads = latents if verifier.needs == "latents" else generator.decode(latents)
    return calls | _score(verifier, prompt, reads)


def question_tokens(verifier: Verifier | None, prompt: str) -> QuestionTokens | None:
    """How long the verifier's question is for this prompt; None where it has no such question."""
    question: Any = getattr(verifier, "question", None)
    return question.tokens(prompt) if hasattr(question, "tokens") else None


def end_to_end(
    generator: Generator, verifier: Verifier | None, prompt: str, ns: Sequence[int], batch: int = 1
) -> dict[int, Call]:
    """Whole best-of-N runs by N; without a verifier only N = 1 means anything."""
    from vhsbench.harness.inference.best_of_n import best_of_n

    def call(n: int) -> Call:
        return lambda: best_of_n(generator, verifier, prompt, range(n), batch)

    return {n: call(n) for n in (ns if verifier is not None else (1,))}


def _score(verifier: Verifier, prompt: str, reads: Any) -> dict[str, Call]:
    """The stage score, and its parts if the verifier names them (`tokens`, `model.connector`, `model.llm`)."""
    calls: dict[str, Call] = {"score": lambda: verifier.score([prompt], reads)}
    tokens, model = getattr(verifier, "tokens", None), getattr(verifier, "model", None)
    connector, llm = getattr(model, "connector", None), getattr(model, "llm", None)
    if tokens is None or connector is None or llm is None:
        return calls
    if verifier.needs == "images":
        calls["clip"] = lambda: tokens(reads)
    again = _replayed([connector, llm.model, llm.lm_head], calls["score"])
    calls["connector"] = again[0]
    calls["llm"] = lambda: (again[1](), again[2]())
    return calls


def _replayed(modules: Sequence[nn.Module], call: Call) -> list[Call]:
    """For each module, its last forward within `call` again, with the same inputs."""
    import torch

    inputs: dict[int, tuple[Any, Any]] = {}

    def keep(module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs[id(module)] = args, kwargs

    handles = [m.register_forward_pre_hook(keep, with_kwargs=True) for m in modules]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()

    def again(module: nn.Module) -> Call:
        args, kwargs = inputs[id(module)]

        def run() -> object:
            with torch.inference_mode():
                return module(*args, **kwargs)

        return run

    return [again(m) for m in modules]
