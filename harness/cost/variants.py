"""Speed-ups as named variants of a pipeline, measured as cells of their own; "" is the plain pipeline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from vhsbench.harness.common.errors import VhsbenchError

if TYPE_CHECKING:
    import torch

    from vhsbench.generators.protocol import Generator
    from vhsbench.harness.inference.bench import Bench
    from vhsbench.verifiers.protocol import Verifier

BATCHED = "batched"  # the label of rows whose candidates run several at a time
FAST, FAST_FP8 = "fast", "fast-fp8"
IN_BATCHES = (FAST, FAST_FP8)  # variants whose whole runs are timed in batches that memory allows
LOOPS = ("naive", "staged")  # labels of whole loops measured against each other: no pipelines of stages


class VariantError(VhsbenchError):
    """A variant that a pipeline cannot have; the message is one sentence for a user."""


# how far a variant may move the results of CANDIDATES of each prompt
CANDIDATES = 8
MOST_PERCENT = (
    3.0  # of features and image, as the norm of the difference over that of the plain ones: of every one
)
MOST_SCORE = 0.05  # by which a score may move before it counts as changed
MOST_CHANGED_PERCENT = 5.0  # of the candidates, whose scores changed


def apply(
    variant: str, generator: Generator, verifier: Verifier | None, prompts: Sequence[str], batch: int = 1
) -> tuple[dict[str, float], list[str]]:
    """Change the pipeline in place; return how far that moved its results (see `compare`), and remarks.

    Raises VariantError if the pipeline lacks the part that the variant is of, or if results moved too far.
    """
    if not variant:
        return {}, []
    before = results(generator, verifier, prompts)
    remarks = make(variant, generator, verifier)
    return compare(variant, generator, before, results(generator, verifier, prompts, batch)), remarks


def apply_to_bench(variant: str, bench: Bench, batch_size: int) -> None:
    """Change what a bench makes and scores candidates by, and fill its batches up to few sizes.

    Raises VariantError as `apply` does, by a batch of its first prompt.
    """
    from vhsbench.harness.cost import fast

    if bench.generator.device.type == "cuda" and not fast.compiles_alike():
        raise VariantError(
            f"a pool by variant '{variant}' needs torch 2.10 or later: code that an older one compiles differs from worker to worker."
        )
    rows = min(batch_size, fast.GROUP)
    before = _made(bench, rows)
    fast.speed_up_pool(bench.generator, bench.verifiers, _blocks(bench.generator, variant))
    bench.sizes = [batch_size >> times for times in range(batch_size.bit_length())]
    compare(variant, bench.generator, before, _made(bench, rows))


def _made(bench: Bench, rows: int) -> dict[str, torch.Tensor]:
    """Return the images and all scores of some candidates, on the CPU."""
    import numpy as np
    import torch

    made = bench.make([(0, 0, index) for index in range(rows)])
    scores = [torch.tensor(frame["score"].to_numpy()) for frame in bench.score(made).values()]
    images = torch.from_numpy(np.stack([np.array(image) for image in made.images]))
    return {"image": images, **({"score": torch.cat(scores)} if scores else {})}


def make(variant: str, generator: Generator, verifier: Verifier | None) -> list[str]:
    """Change the pipeline in place; return remarks. Raises VariantError if it lacks the part that the variant is of."""
    return VARIANTS[variant](generator, verifier) or []


def results(
    generator: Generator, verifier: Verifier | None, prompts: Sequence[str], batch: int = 1
) -> dict[str, torch.Tensor]:
    """Return what a variant may move, on the CPU.

    Of CANDIDATES of each prompt the scores [P * C] and what the verifier reads, of each prompt's first one the image
    [P, H, W, 3]; without a verifier images alone.
    """
    import numpy as np
    import torch

    from vhsbench.harness.inference.route import route_of
    from vhsbench.verifiers.checks import check_form

    route, found = route_of(verifier), defaultdict(list)
    for prompt in prompts:
        cond, seeds = generator.encode([prompt]), range(CANDIDATES if verifier else 1)
        for start in range(0, len(seeds), batch):
            part = seeds[start : start + batch]
            asked = [prompt] * len(part)
            state = route.start(generator, cond.select([0] * len(part)), part)
            if start == 0:
                image = route.finish(generator, cond, state, 0)[0]
                found["image"].append(torch.from_numpy(np.array(image))[None])
            if verifier is None:
                continue
            read = route.reads(state)
            found["score"].append(check_form(verifier, verifier.score(asked, read), len(part)).score.cpu())
            if hasattr(verifier, "visual"):
                with torch.inference_mode():
                    found["features"].append(verifier.visual(asked, read).cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def compare(
    variant: str, generator: Generator, before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]
) -> dict[str, float]:
    """Return how far results moved.

    `score_difference` and `image_difference` (levels of 255), the largest; `scores_changed_percent`, the share of candidates whose score moved by more than MOST_SCORE; `features_percent` and
    `image_percent`, the largest norm of a difference relative to the plain one's.

    Raises VariantError beyond MOST_PERCENT or MOST_CHANGED_PERCENT.
    """
    import torch

    moved = {}
    for name, plain in before.items():
        pairs = [(a.float(), b.float()) for a, b in zip(plain, after[name], strict=True)]
        most = torch.stack([(b - a).abs().max() for a, b in pairs])
        if name == "score":
            moved["scores_changed_percent"] = 100 * float((~(most <= MOST_SCORE)).float().mean())
        else:
            norms = [(b - a).norm() / a.norm().clamp(min=1e-12) for a, b in pairs]
            moved[f"{name}_percent"] = 100 * float(torch.stack(norms).max())
        if name != "features":
            moved[f"{name}_difference"] = float(most.max())
    _check_bound(variant, generator, moved)
    return moved


def _check_bound(variant: str, generator: Generator, moved: dict[str, float]) -> None:
    for name, by in moved.items():
        if name == "scores_changed_percent" and not by <= MOST_CHANGED_PERCENT:
            raise VariantError(
                f"variant '{variant}' moves the scores of {by:.3g}% of the candidates of '{generator.name}' by more "
                f"than {MOST_SCORE:g}; of {MOST_CHANGED_PERCENT:g}% it may."
            )
        if name in ("features_percent", "image_percent") and not by <= MOST_PERCENT:
            raise VariantError(
                f"variant '{variant}' moves {name} of '{generator.name}' by {by:.3g}, "
                f"more than the {MOST_PERCENT:g} that a variant may."
            )


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


def _fast_fp8(generator: Generator, verifier: Verifier | None) -> list[str]:
    """Do the same with the LLM's MLPs in 8-bit floats; without a verifier there is no LLM."""
    import torch

    from vhsbench.harness.cost import fp8
    from vhsbench.verifiers.kept import keep
    from vhsbench.verifiers.verifier import MllmVerifier

    device = generator.device
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < fp8.CAPABILITY:
        raise VariantError(
            f"variant '{FAST_FP8}' needs a GPU of compute capability {'.'.join(map(str, fp8.CAPABILITY))} or later, which multiplies 8-bit floats."
        )
    if not isinstance(verifier, MllmVerifier):
        return [f"{FAST_FP8} is {FAST} here: there is no LLM of ours", *_fast(generator, verifier)]
    keep(verifier)  # first: the text before the image, whose values are largest, is read exactly
    if not fp8.quantize(verifier.model.llm.model):
        raise VariantError(
            f"variant '{FAST_FP8}': no MLP of '{verifier.name}' has channels in multiples of 16."
        )
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
    FAST_FP8: _fast_fp8,
}
