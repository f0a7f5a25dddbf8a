"""The variant `fast`: what makes a pipeline of ours fast, put together; docs/performance.md says what each part gains."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from vhsbench.generators.pictures import without_waiting
from vhsbench.generators.pipeline import StagedPipeline
from vhsbench.harness.cost.memory import is_out_of_memory
from vhsbench.verifiers.clip import ClipPatches, OpenClipPatches
from vhsbench.verifiers.kept import Prefixed, keep
from vhsbench.verifiers.verifier import MllmVerifier

if TYPE_CHECKING:
    from vhsbench.generators.protocol import Generator
    from vhsbench.verifiers.protocol import Verifier

PARTS = ("pictures", "kept", "compile", "graphs")
BATCHES = (32, 16, 8, 4, 2)  # larger ones gain nothing on an H200
GROUP = 8  # images that are decoded together, so that the decoder is compiled for two sizes only
_GRAPHED_ROWS = 2  # beyond which copying a graph's inputs costs more than launching its kernels


def speed_up(
    generator: Generator, verifier: Verifier | None, blocks: list[Any], parts: Collection[str] = PARTS
) -> list[str]:
    """Change a pipeline in place; returns what could not be done here, a sentence each.

    pictures: noise and decoding do not wait for the device. kept: what all candidates share is computed once. compile:
    the DiT's blocks, the LLM and CLIP for one row and for any number, the decoder for one and GROUP. graphs: blocks and LLM of few rows.
    """
    remarks = []
    if "pictures" in parts and isinstance(generator, StagedPipeline):
        without_waiting(generator)
    if "kept" in parts and isinstance(verifier, MllmVerifier):
        keep(verifier)
    if "compile" in parts:
        if lacking := no_compiler(generator.device.type):
            remarks.append(f"fast without compiling: {lacking}")
        else:
            compile_each(
                [*calls_of_blocks(blocks), *calls_of_llm(verifier), *_call_of_clip(verifier)], len(blocks)
            )
            # for any number of rows inductor would not lay out its convolutions with channels innermost
            compile_each(_call_of_decoder(generator), len(blocks), dynamic=False)
            if isinstance(generator, StagedPipeline):
                decode_in_groups(generator)
    if "graphs" in parts and generator.device.type == "cuda":
        from vhsbench.harness.cost.graphs import Graphed

        for owner, name in (*calls_of_blocks(blocks), *calls_of_llm(verifier)):
            setattr(owner, name, Graphed(getattr(owner, name), _GRAPHED_ROWS))
    return remarks


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


def _call_of_decoder(generator: Generator) -> Calls:
    decoder = getattr(generator.modules().get("vae"), "decoder", None)
    return [(decoder, "forward")] if decoder is not None else []


def _call_of_clip(verifier: Verifier | None) -> Calls:
    tower = verifier.tokens if isinstance(verifier, MllmVerifier) else None
    if isinstance(tower, ClipPatches):
        return [(tower.model, "forward")]
    return [(tower.model, "forward_intermediates")] if isinstance(tower, OpenClipPatches) else []


def decode_in_groups(generator: StagedPipeline) -> None:
    """Decode images GROUP at a time; a rest of more than half a group is filled up, a smaller one goes one by one."""
    import torch

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


def compile_each(calls: Calls, blocks: int, dynamic: bool | None = None) -> None:
    """Compile functions in place, by default for one row and for any number; else for each number (`dynamic` False).

    Their code is kept on disk between processes.
    """
    import torch

    kept = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "vhsbench" / "inductor"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(kept))
    # more blocks than torch's limit would silently run the rest uncompiled
    torch._dynamo.config.recompile_limit = 4 * max(1, blocks)
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    for owner, name in calls:
        setattr(owner, name, torch.compile(getattr(owner, name), dynamic=dynamic))


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
    import torch

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
