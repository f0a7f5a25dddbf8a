"""Speed-ups as named variants of a pipeline, measured as cells of their own; "" is the plain pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vhsbench.harness.common.errors import VhsbenchError

if TYPE_CHECKING:
    import torch

    from vhsbench.generators.protocol import Generator
    from vhsbench.verifiers.protocol import Verifier

BATCHED = "batched"  # the label of rows whose candidates run several at a time
LOOPS = ("naive", "staged")  # labels of whole loops measured against each other: no pipelines of stages


class VariantError(VhsbenchError):
    """A variant that a pipeline cannot have; the message is one sentence for a user."""


def apply(variant: str, generator: Generator, verifier: Verifier | None, prompt: str) -> dict[str, float]:
    """Change the pipeline in place, and say how far that moved its results for one candidate of `prompt`.

    Returns `score_difference`, and `image_difference` in levels of 255, the largest of all pixels.
    Raises VariantError if the pipeline lacks the part that the variant is of.
    """
    if not variant:
        return {}
    before = _results(generator, verifier, prompt)
    VARIANTS[variant](generator, verifier)
    after = _results(generator, verifier, prompt)
    return {name: float((after[name] - before[name]).abs().max()) for name in before}


def _results(generator: Generator, verifier: Verifier | None, prompt: str) -> dict[str, torch.Tensor]:
    import numpy as np
    import torch

    from vhsbench.harness.inference.best_of_n import best_of_n

    best = best_of_n(generator, verifier, prompt, [0])
    image = torch.from_numpy(np.array(best.image)).float()
    return {"score_difference": best.scores, "image_difference": image}


def _compile(generator: Generator, verifier: Verifier | None) -> None:
    """Compile the DiT's blocks each by itself, since the DiT is split between them, and the LLM whole."""
    import torch

    blocks = _blocks(generator, "torch-compile")
    # more blocks than torch's limit would silently run the rest uncompiled
    torch._dynamo.config.recompile_limit = 4 * len(blocks)
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    for module in [*blocks, *_llm(verifier)]:
        module.forward = torch.compile(module.forward)


def _channels_last(generator: Generator, verifier: Verifier | None) -> None:
    """Store the autoencoder's weights, and so its activations, with channels innermost."""
    import torch

    _part(generator, "vae", "channels-last").to(memory_format=torch.channels_last)


def _cuda_graphs(generator: Generator, verifier: Verifier | None) -> None:
    """Capture the DiT's blocks each as a graph, since the DiT is split between them, and the LLM as one."""
    from vhsbench.harness.cost.graphs import Graphed

    blocks = _blocks(generator, "cuda-graphs")
    if generator.device.type != "cuda":
        raise VariantError(
            f"variant 'cuda-graphs' needs a CUDA device, and '{generator.name}' is on the CPU."
        )
    for module in [*blocks, *_llm(verifier)]:
        module.forward = Graphed(module.forward)


def _blocks(generator: Generator, variant: str) -> list[Any]:
    import torch

    transformer = _part(generator, "transformer", variant)
    lists = [child for child in transformer.children() if isinstance(child, torch.nn.ModuleList)]
    blocks = [block for blocks in lists for block in blocks]
    if len(blocks) != generator.blocks:
        raise VariantError(
            f"variant '{variant}': '{generator.name}' has {generator.blocks} blocks, "
            f"but its transformer lists {len(blocks)}."
        )
    return blocks


def _llm(verifier: Verifier | None) -> list[Any]:
    llm: Any = verifier and verifier.modules().get("llm")
    return [llm.model] if llm else []


def _part(generator: Generator, name: str, variant: str) -> Any:
    part = generator.modules().get(name)
    if part is None:
        raise VariantError(f"variant '{variant}' changes the {name}, and '{generator.name}' shows none.")
    return part


VARIANTS: dict[str, Callable[[Generator, Verifier | None], None]] = {
    "torch-compile": _compile,
    "channels-last": _channels_last,
    "cuda-graphs": _cuda_graphs,
}
