"""Speed-ups as named variants of a pipeline, measured as cells of their own; "" is the plain pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from generators.protocol import Generator
    from verifiers.protocol import Verifier

BATCHED = "batched"  # the label of rows whose candidates run several at a time


class VariantError(ValueError):
    """A variant that a pipeline cannot have; the message is one sentence for a user."""


def apply(variant: str, generator: Generator, verifier: Verifier | None) -> None:
    """Change the pipeline in place. Raises VariantError if it lacks the part that the variant is of."""
    if variant:
        VARIANTS[variant](generator, verifier)


def _compile(generator: Generator, verifier: Verifier | None) -> None:
    """The DiT's blocks each by itself, since the DiT is split between them; the LLM whole."""
    import torch

    transformer = _part(generator, "transformer", "torch-compile")
    lists = [child for child in transformer.children() if isinstance(child, torch.nn.ModuleList)]
    blocks = [block for blocks in lists for block in blocks]
    if len(blocks) != generator.blocks:
        raise VariantError(
            f"variant 'torch-compile': '{generator.name}' has {generator.blocks} blocks, "
            f"but its transformer lists {len(blocks)}."
        )
    # more blocks than torch's limit would silently run the rest uncompiled
    torch._dynamo.config.recompile_limit = 4 * len(blocks)
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    for block in blocks:
        block.forward = torch.compile(block.forward)
    llm = getattr(getattr(verifier, "model", None), "llm", None)
    if llm is not None:
        llm.model.forward = torch.compile(llm.model.forward)


def _channels_last(generator: Generator, verifier: Verifier | None) -> None:
    """The autoencoder's weights, and with them its activations, with channels innermost."""
    import torch

    _part(generator, "vae", "channels-last").to(memory_format=torch.channels_last)


def _part(generator: Generator, name: str, variant: str) -> Any:
    part = getattr(getattr(generator, "pipeline", None), name, None)
    if part is None:
        raise VariantError(f"variant '{variant}' changes the {name}, and '{generator.name}' shows none.")
    return part


VARIANTS: dict[str, Callable[[Generator, Verifier | None], None]] = {
    "torch-compile": _compile,
    "channels-last": _channels_last,
}
