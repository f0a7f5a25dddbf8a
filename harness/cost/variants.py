"""Speed-ups as named variants of a pipeline, measured as cells of their own; "" is the plain pipeline."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vhsbench.harness.common.errors import VhsbenchError

if TYPE_CHECKING:
    import torch

    from vhsbench.generators.protocol import Generator
    from vhsbench.harness.inference.bench import Bench
    from vhsbench.verifiers.protocol import Verifier

BATCHED = "batched"  # the label of rows whose candidates run several at a time
FAST, FAST_INT8 = "fast", "fast-int8"
IN_BATCHES = (FAST, FAST_INT8)  # variants whose whole runs are timed in batches that memory allows
LOOPS = ("naive", "staged")  # labels of whole loops measured against each other: no pipelines of stages


class VariantError(VhsbenchError):
    """A variant that a pipeline cannot have; the message is one sentence for a user."""


# how far a variant may move the results of one candidate
MOST_PERCENT = 3.0  # of features and image, as the norm of the difference over that of the plain ones
MOST_SCORE = 0.05


def apply(
    variant: str, generator: Generator, verifier: Verifier | None, prompt: str
) -> tuple[dict[str, float], list[str]]:
    """Change the pipeline in place; return how far that moved its results for one candidate of `prompt`, and remarks.

    `score_difference` and `image_difference` (levels of 255) are the largest; `features_percent` and `image_percent` are norms
    relative to the plain ones. Raises VariantError if the pipeline lacks the part that the variant is of, or if results
    moved by more than MOST_PERCENT or MOST_SCORE.
    """
    if not variant:
        return {}, []
    before = _results(generator, verifier, prompt)
    remarks = VARIANTS[variant](generator, verifier) or []
    moved = _moved(before, _results(generator, verifier, prompt))
    _check_bound(variant, generator, moved)
    return moved, remarks


def apply_to_bench(variant: str, bench: Bench, batch_size: int) -> None:
    """Change what a bench makes and scores candidates by, and fill its batches up to few sizes.

    Raises VariantError as `apply` does, by a batch of its first prompt.
    """
    from vhsbench.harness.cost import fast

    rows = min(batch_size, fast.GROUP)
    before = _made(bench, rows)
    fast.speed_up_pool(bench.generator, bench.verifiers, _blocks(bench.generator, variant))
    bench.sizes = [batch_size >> times for times in range(batch_size.bit_length())]
    _check_bound(variant, bench.generator, _moved(before, _made(bench, rows)))


def _made(bench: Bench, rows: int) -> dict[str, torch.Tensor]:
    """Return the images and all scores of some candidates, on the CPU."""
    import numpy as np
    import torch

    made = bench.make([(0, 0, index) for index in range(rows)])
    scores = [torch.tensor(frame["score"].to_numpy()) for frame in bench.score(made).values()]
    images = torch.from_numpy(np.stack([np.array(image) for image in made.images])).float()
    return {"image": images, **({"score": torch.cat(scores)} if scores else {})}


def _moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> dict[str, float]:
    moved = {}
    for name, plain in before.items():
        off = after[name] - plain
        if name != "features":
            moved[f"{name}_difference"] = float(off.abs().max())
        if name != "score":
            moved[f"{name}_percent"] = 100 * float(off.norm() / plain.norm().clamp(min=1e-12))
    return moved


def _check_bound(variant: str, generator: Generator, moved: dict[str, float]) -> None:
    for name, by in moved.items():
        most = (
            MOST_SCORE if name == "score_difference" else MOST_PERCENT if name.endswith("percent") else None
        )
        if most is not None and not by <= most:
            raise VariantError(
                f"variant '{variant}' moves {name} of '{generator.name}' by {by:.3g}, "
                f"more than the {most:g} that a variant may."
            )


def _results(generator: Generator, verifier: Verifier | None, prompt: str) -> dict[str, torch.Tensor]:
    """Return the score, the image and what the verifier reads of one candidate, on the CPU."""
    import numpy as np
    import torch

    from vhsbench.harness.inference.best_of_n import best_of_n
    from vhsbench.harness.inference.route import route_of

    best = best_of_n(generator, verifier, prompt, [0])
    found = {"score": best.scores, "image": torch.from_numpy(np.array(best.image)).float()}
    if verifier is not None and hasattr(verifier, "visual"):
        route = route_of(verifier)
        state = route.start(generator, generator.encode([prompt]), [0])
        with torch.inference_mode():
            found["features"] = verifier.visual([prompt], route.reads(state)).float().cpu()
    return found


def _compile(generator: Generator, verifier: Verifier | None) -> None:
    """Compile the DiT's blocks and the LLM."""
    from vhsbench.harness.cost import fast

    blocks = _blocks(generator, "torch-compile")
    if lacking := fast.no_compiler(generator.device.type):
        raise VariantError(f"variant 'torch-compile': {lacking}.")
    fast.compile_each([*fast.calls_of_blocks(blocks), *fast.calls_of_llm(verifier)], len(blocks))


def _fast(generator: Generator, verifier: Verifier | None) -> list[str]:
    """Do all that makes a pipeline fast."""
    from vhsbench.harness.cost import fast

    return fast.speed_up(generator, verifier, _blocks(generator, FAST))


def _fast_int8(generator: Generator, verifier: Verifier | None) -> list[str]:
    """Do the same with the LLM's linear layers in 8 bits; without a verifier there is none."""
    from vhsbench.harness.cost.int8 import quantize

    llm: Any = verifier and verifier.modules().get("llm")
    if llm is not None:
        quantize(llm.model)
    return _fast(generator, verifier)


def _channels_last(generator: Generator, verifier: Verifier | None) -> None:
    """Store the autoencoder's weights, and so its activations, with channels innermost."""
    import torch

    _part(generator, "vae", "channels-last").to(memory_format=torch.channels_last)


def _cuda_graphs(generator: Generator, verifier: Verifier | None) -> None:
    """Capture the DiT's blocks each as a graph, since the DiT is split between them, and the LLM as one."""
    from vhsbench.harness.cost import fast
    from vhsbench.harness.cost.graphs import Graphed

    blocks = _blocks(generator, "cuda-graphs")
    if generator.device.type != "cuda":
        raise VariantError(
            f"variant 'cuda-graphs' needs a CUDA device, and '{generator.name}' is on the CPU."
        )
    for owner, name in (*fast.calls_of_blocks(blocks), *fast.calls_of_llm(verifier)):
        setattr(owner, name, Graphed(getattr(owner, name)))


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


def _part(generator: Generator, name: str, variant: str) -> Any:
    part = generator.modules().get(name)
    if part is None:
        raise VariantError(f"variant '{variant}' changes the {name}, and '{generator.name}' shows none.")
    return part


VARIANTS: dict[str, Callable[[Generator, Verifier | None], list[str] | None]] = {
    "torch-compile": _compile,
    "channels-last": _channels_last,
    "cuda-graphs": _cuda_graphs,
    FAST: _fast,
    FAST_INT8: _fast_int8,
}
