"""The stages of a pipeline as calls on one candidate: what measuring times and counting counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor, nn

    from generators.protocol import Generator
    from verifiers.protocol import Verifier

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
    """The stages that a pipeline runs, each ready to be called on one candidate; works on `meta` too."""
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
    reads = latents if verifier.needs == "latents" else _images(generator, latents)
    return calls | _score(verifier, prompt, reads)


def end_to_end(
    generator: Generator, verifier: Verifier | None, prompt: str, ns: Sequence[int], batch: int = 1
) -> dict[int, Call]:
    """Whole best-of-N runs by N; without a verifier only N = 1 means anything."""
    from harness.pipeline import best_of_n

    def call(n: int) -> Call:
        return lambda: best_of_n(generator, verifier, prompt, range(n), batch)

    return {n: call(n) for n in (ns if verifier is not None else (1,))}


@contextmanager
def without_values() -> Iterator[None]:
    """Lets stages run on `meta`, where tensors have shapes but no values; elsewhere no effect.

    A number that code branches on is 1 (true: a mask is full, a sequence unpacked). A copy to the
    CPU ends the stage, after its last layer; inside a layer it would cut the stage short, and raises.
    """
    try:
        with _ones_for_values()():
            yield
    except (NotImplementedError, RuntimeError, TypeError) as error:
        if "meta" not in str(error) or _in_a_layer(error):
            raise


@cache
def _ones_for_values() -> Callable[[], AbstractContextManager[Any]]:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    aten = torch.ops.aten
    reads = (aten.item.default, aten.is_nonzero.default, aten._local_scalar_dense.default)

    class OnesForValues(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func in reads and args[0].device.type == "meta":
                return torch.ones((), dtype=args[0].dtype).item()
            return func(*args, **(kwargs or {}))

    return OnesForValues


def _in_a_layer(error: BaseException) -> bool:
    from torch import nn

    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_name == "forward" and isinstance(frame.f_locals.get("self"), nn.Module):
            return True
        trace = trace.tb_next
    return False


def _images(generator: Generator, latents: Tensor) -> list[Image.Image]:
    """The decoded images; on `meta`, where there are no pixels, blank ones of their size."""
    if latents.device.type != "meta":
        return generator.decode(latents)
    from PIL import Image

    side = generator.info().resolution
    return [Image.new("RGB", (side, side)) for _ in range(len(latents))]


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
        with without_values():
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
