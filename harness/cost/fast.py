"""The variant `fast`: what makes a pipeline of ours fast, put together; docs/performance.md says what each part gains."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from vhsbench.generators.pictures import without_waiting
from vhsbench.generators.pipeline import StagedPipeline
from vhsbench.generators.texts import without_padding
from vhsbench.harness.cost.memory import is_out_of_memory
from vhsbench.harness.cost.rewritten import rewrite
from vhsbench.verifiers.clip import ClipPatches, OpenClipPatches
from vhsbench.verifiers.kept import Prefixed, keep
from vhsbench.verifiers.verifier import MllmVerifier

if TYPE_CHECKING:
    from vhsbench.generators.protocol import Generator
    from vhsbench.verifiers.protocol import Verifier

PARTS = ("pictures", "kept", "texts", "compile", "tf32", "graphs", "encoder")
BATCHES = (32, 16, 8, 4, 2)  # larger ones gain nothing on an H200
GROUP = 8  # images that are decoded together, so that the decoder is compiled for two sizes only
_MOST_SIZES = 16  # of batches, a block each
_GRAPHED_ROWS = 2  # beyond which copying a graph's inputs costs more than launching its kernels


def speed_up(
    generator: Generator, verifier: Verifier | None, blocks: list[Any], parts: Collection[str] = PARTS
) -> list[str]:
    """Change a pipeline in place; returns what could not be done here, a sentence each.

    pictures: noise and decoding do not wait for the device. kept: what all candidates share is computed once. texts: the
    DiT reads no padding. compile: the DiT's blocks and the layers of LLM and CLIP for one row and for any number, the
    decoder, on a GPU with parts rewritten, for one and GROUP. tf32: what a half-precision DiT or decoder computes in
    float32. graphs: blocks and LLM of few rows, the decoder of one. encoder: the text encoders' graph, without a cache
    that nothing reads.
    """
    remarks = []
    on_gpu = generator.device.type == "cuda"
    if "pictures" in parts and isinstance(generator, StagedPipeline):
        without_waiting(generator)
    if "kept" in parts and isinstance(verifier, MllmVerifier):
        keep(verifier)
    if "texts" in parts and isinstance(generator, StagedPipeline):
        without_padding(generator)
    if "compile" in parts:
        if lacking := no_compiler(generator.device.type):
            remarks.append(f"fast without compiling: {lacking}")
        else:
            if on_gpu:
                _rewrite_decoder(generator)
            layers = [*_layers_of_llm(verifier), *_layers_of_clip(verifier)]
            compile_each([*calls_of_blocks(blocks), *layers], max(len(blocks), len(layers)))
            # for any number of rows inductor would not lay out its convolutions with channels innermost
            compile_each(_call_of_decoder(generator), len(blocks), dynamic=False)
            if isinstance(generator, StagedPipeline):
                decode_in_groups(generator)
    if "tf32" in parts and on_gpu:
        for owner, name in (*calls_of_blocks(blocks), *_call_of_decoder(generator)):
            if next(owner.parameters()).dtype in (torch.bfloat16, torch.float16):
                setattr(owner, name, with_tf32(getattr(owner, name)))
    if "graphs" in parts and on_gpu:
        _graph([*calls_of_blocks(blocks), *calls_of_llm(verifier)], _GRAPHED_ROWS)
        _graph(_call_of_decoder(generator), 1)
    if "encoder" in parts and on_gpu and (failed := _graph_encoders(generator)):
        remarks.append(f"fast without a graph of the text encoders: {failed}")
    return remarks


def speed_up_pool(generator: Generator, verifiers: Sequence[Verifier], blocks: list[Any]) -> None:
    """Change what makes and scores a sweep's candidates in place: their bytes follow from the size of the batch alone.

    So there are no graphs, which other threads' work would break, and no TF32, which is a setting of all threads; the LLM
    and CLIP are not compiled: lengths follow from prompts, and code for any length from the length that came first. On a
    CPU nothing is compiled.
    """
    if isinstance(generator, StagedPipeline):
        without_waiting(generator)
    for verifier in verifiers:
        if isinstance(verifier, MllmVerifier):
            keep(verifier)
    if generator.device.type == "cuda":
        _rewrite_decoder(generator)
        calls = [*calls_of_blocks(blocks), *_call_of_decoder(generator)]
        # no kernels chosen by their times, which differ from process to process
        compile_each(calls, len(blocks), dynamic=False, deterministic=True)
        if isinstance(generator, StagedPipeline):
            decode_in_groups(generator)


Calls = list[tuple[Any, str]]  # an object, and the name of its function


def calls_of_blocks(blocks: list[Any]) -> Calls:
    """Return the DiT's blocks, each by itself, since the DiT is split between them."""
    return [(block, "forward") for block in blocks]


def calls_of_llm(verifier: Verifier | None) -> Calls:
    """Return the LLM, or what stands for it with the question's beginning kept."""
    if isinstance(verifier, MllmVerifier) and isinstance(verifier.model.read, Prefixed):
        return [(verifier.model.read, "compute")]
    llm: Any = verifier and verifier.modules().get("llm")
    return [(llm.model, "forward")] if llm else []


def _layers_of_llm(verifier: Verifier | None) -> Calls:
    """Return the LLM's layers: alike, they are compiled once, in a fraction of the time that the whole LLM takes."""
    llm: Any = verifier and verifier.modules().get("llm")
    layers = getattr(llm.model, "layers", [llm.model]) if llm else []
    return [(layer, "forward") for layer in layers]


def _call_of_decoder(generator: Generator) -> Calls:
    decoder = getattr(generator.modules().get("vae"), "decoder", None)
    return [(decoder, "forward")] if decoder is not None else []


def _rewrite_decoder(generator: Generator) -> None:
    for decoder, _ in _call_of_decoder(generator):
        rewrite(decoder)


def _layers_of_clip(verifier: Verifier | None) -> Calls:
    tower = verifier.tokens if isinstance(verifier, MllmVerifier) else None
    layers: Any = []
    if isinstance(tower, ClipPatches):
        layers = tower.model.encoder.layers
    elif isinstance(tower, OpenClipPatches):
        layers = tower.model.transformer.resblocks
    return [(layer, "forward") for layer in layers]


def with_tf32(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that multiplies float32 matrices on tensor cores, and leaves torch's setting as it was.

    A product's inputs keep 10 bits of mantissa: all that bfloat16 has, and its sum is in float32.
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            return function(*args, **kwargs)
        finally:
            torch.set_float32_matmul_precision(before)

    return call


def _graph(calls: Calls, most_rows: int) -> None:
    from vhsbench.harness.cost.graphs import Graphed

    for owner, name in calls:
        setattr(owner, name, Graphed(getattr(owner, name), most_rows))


def _graph_encoders(generator: Generator) -> str:
    """Replay the text encoders of few prompts as graphs; returns why they cannot be captured, or ""."""
    calls: Calls = [(module, "forward") for name, module in generator.modules().items()
             if name.startswith("text_encoder") and next(module.parameters()).is_cuda]  # fmt: skip
    if not calls:
        return ""
    for encoder, _ in calls:
        encoder.config.use_cache = False
    from vhsbench.harness.cost.graphs import CaptureError

    before = [encoder.forward for encoder, _ in calls]
    _graph(calls, _GRAPHED_ROWS)
    try:
        generator.encode(["a photo"])
    except CaptureError as error:
        for (encoder, _), forward in zip(calls, before, strict=True):
            encoder.forward = forward
        return str(error)
    return ""


def decode_in_groups(generator: StagedPipeline) -> None:
    """Decode images GROUP at a time; a rest of more than half a group is filled up, a smaller one goes one by one."""
    pixels, changed = generator.pixels, cast(Any, generator)

    def grouped(latents: torch.Tensor) -> torch.Tensor:
        found = []
        for part in latents.split(GROUP):
            rows = len(part)
            if 2 * rows > GROUP:
                filling = part[-1:].expand(GROUP - rows, *part.shape[1:])
                found.append(pixels(torch.cat([part, filling]))[:rows])
            else:
                found += [pixels(one) for one in part.split(1)]
        return torch.cat(found)

    changed.pixels = grouped


def compile_each(calls: Calls, blocks: int, dynamic: bool | None = None, **options: Any) -> None:
    """Compile functions in place, by default for one row and for any number; else for each number (`dynamic` False).

    `options` are inductor's. Their code is kept on disk between processes.
    """
    kept = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vhsbench" / "inductor"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kept))
    # more blocks than torch's limit would silently run the rest uncompiled
    limit = _MOST_SIZES * max(1, blocks)
    torch._dynamo.config.recompile_limit = max(limit, torch._dynamo.config.recompile_limit)
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    given: dict[str, Any] = {"options": options} if options else {}
    for owner, name in calls:
        setattr(owner, name, torch.compile(getattr(owner, name), dynamic=dynamic, **given))


def compiles_alike() -> bool:
    """Return whether this torch can compile without choosing kernels by their times."""
    import torch._inductor.config as inductor

    return hasattr(inductor, "deterministic")


def no_compiler(device: str) -> str:
    """Say what torch.compile lacks to make code for a device; "" if nothing."""
    wanted = os.environ.get("CXX", "g++")
    if device == "cpu" and shutil.which(wanted) is None:
        return f"torch.compile needs a C++ compiler on a CPU, and there is no '{wanted}' (CXX names another)"
    return ""


def batches(generator: Generator, verifier: Verifier, prompt: str, ns: Iterable[int]) -> set[int]:
    """Return the sizes of batches for whole runs of these N: as large as memory allows, up to the largest of BATCHES."""
    largest = batch_by_memory(generator, verifier, prompt)
    return {min(n, largest) for n in ns} - {1}


def batch_by_memory(generator: Generator, verifier: Verifier, prompt: str) -> int:
    """Return the largest of BATCHES that is within memory, or 1."""
    from vhsbench.harness.inference.best_of_n import best_of_n

    for batch in BATCHES:
        try:
            best_of_n(generator, verifier, prompt, range(batch), batch)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        else:
            return batch
    return 1
