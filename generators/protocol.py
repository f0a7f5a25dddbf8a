"""The stage protocol: a generator is split where the paper splits it (section 3, Fig. 4)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from vhsbench.harness.common.errors import VhsbenchError

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import nn

# A DiT block, 0-based; or several, in ascending order, whose mean output is read.
Block = int | tuple[int, ...]


def blocks_of(block: Block) -> tuple[int, ...]:
    """Return the blocks that are read; the DiT runs up to the last of them."""
    return (block,) if isinstance(block, int) else block


def read_block(value: Any) -> Block | None:
    """Check a block from YAML, JSON or a caller: a number, or a list of them. Raises GeneratorError."""
    if value is None:
        return None
    blocks = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if not blocks or any(type(b) is not int or b < 0 for b in blocks) or list(blocks) != sorted(set(blocks)):
        raise GeneratorError(f"a block, 0-based, or several in ascending order, not {value!r}")
    return blocks if len(blocks) > 1 else int(blocks[0])


def block_name(block: Block) -> str:
    """Return the block as part of a file name: "7", or "5_7_9"."""
    return "_".join(map(str, blocks_of(block)))


class GeneratorError(VhsbenchError):
    """A user's mistake about a generator: what, where, and what would be right, in one sentence."""


class NotFiniteError(GeneratorError):
    """Pixels that are NaN; `rows` of the batch have them."""

    def __init__(self, message: str, rows: Sequence[int]) -> None:
        super().__init__(message)
        self.rows = tuple(rows)


@dataclass(frozen=True)
class GeneratorInfo:
    """What `vhsbench list generators` shows; sizes are the architecture's, counted, not measured."""

    name: str
    family: str
    parameters: int  # of the DiT
    blocks: int
    tokens: int  # image tokens the DiT works on
    hidden_width: int
    resolution: int  # pixels, square
    steps: int
    licence: str
    source: str  # hub id and revision, or "bundled"
    lora: Mapping[str, int] = field(default_factory=dict)  # keys of a LoRA applied, by component


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts. `tensors` are the pipeline's own keyword arguments, each of shape [B, ...]."""

    prompts: tuple[str, ...]
    tensors: Mapping[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, rows: Sequence[int]) -> Conditioning:
        """Return the given rows; a row may be named many times (one prompt, N candidates)."""
        tensors = {k: _rows(v, rows) for k, v in self.tensors.items()}
        return Conditioning(tuple(self.prompts[i] for i in rows), tensors)


def _rows(tensor: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """Return rows of a tensor. Does not wait for a GPU, as tensor[list] does for all that is queued."""
    import torch

    index = torch.tensor(list(rows), dtype=torch.long)
    if tensor.is_cuda:
        index = index.pin_memory().to(tensor.device, non_blocking=True)
    return tensor[index]


@dataclass(frozen=True)
class HiddenStates:
    """The state of a batch of candidates after DiT block `block` (0-based) of the last denoising step.

    `features` [B, T, D] is what VHS reads: the image stream, or its mean over several blocks; `streams` is
    all that the (last) block returned (image stream, and text stream where the family has one). `step_outputs`
    are the DiT's outputs at the steps before the last (empty for one-step generation). Under classifier-free
    guidance each tensor is stored as two of B rows, unconditional then conditional; features are conditional.
    """

    block: Block
    streams: tuple[torch.Tensor, ...]
    noise: torch.Tensor
    cond: Conditioning
    step_outputs: tuple[torch.Tensor, ...] = ()
    image_stream: int = 0
    mean: torch.Tensor | None = None  # of the image stream after each of several blocks

    @property
    def features(self) -> torch.Tensor:
        return self.streams[self.image_stream] if self.mean is None else self.mean

    def select(self, rows: Sequence[int]) -> HiddenStates:
        return replace(
            self,
            streams=tuple(_rows(s, rows) for s in self.streams),
            noise=_rows(self.noise, rows),
            cond=self.cond.select(rows),
            step_outputs=tuple(_rows(s, rows) for s in self.step_outputs),
            mean=None if self.mean is None else _rows(self.mean, rows),
        )


@runtime_checkable
class Generator(Protocol):
    """A text-to-image generator in stages. All batches are of equal length B.

    Another package's may leave out what GeneratorDefaults has.
    """

    name: str
    steps: int
    blocks: int
    revision: str

    @property
    def device(self) -> torch.device: ...

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts, once for all candidates."""
        ...

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Draw z_T [B, C, h, w]; row i depends on seeds[i] alone."""
        ...

    def head(self, cond: Conditioning, noise: torch.Tensor, block: Block) -> HiddenStates:
        """Run blocks 0 to the (last) block. Raises GeneratorError if the DiT has no such block."""
        ...

    def advance(self, hidden: HiddenStates, block: Block) -> HiddenStates:
        """Continue from `hidden` to a later (last) block: equal to head(cond, noise, block)."""
        ...

    def tail(self, hidden: HiddenStates) -> torch.Tensor:
        """Continue from `hidden` to the latents [B, C, h, w] (the scaled space that decode takes)."""
        ...

    def denoise(self, cond: Conditioning, noise: torch.Tensor) -> torch.Tensor:
        """Run the whole DiT: equal to tail(head(cond, noise, block)) for every block."""
        ...

    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """Decode latents to RGB images. Raises NotFiniteError for pixels that are NaN."""
        ...

    def with_steps(self, steps: int) -> Generator:
        """Return the same generator, of the same weights, with other steps. Raises GeneratorError if it cannot."""
        ...

    def info(self) -> GeneratorInfo: ...

    def modules(self) -> Mapping[str, nn.Module]:
        """Return what stays loaded, by name: among others `transformer` and `vae`, which speed-ups change."""
        ...


class GeneratorDefaults:
    """What a generator need not say. One that leaves a member out gets it from here when it is created."""

    name: str
    revision = ""  # of its weights; "": info().source says it
    head: Callable[[Conditioning, torch.Tensor, Block], HiddenStates]

    def advance(self, hidden: HiddenStates, block: Block) -> HiddenStates:
        """Run the blocks again from the first: right, but no faster than head."""
        return self.head(hidden.cond, hidden.noise, block)

    def with_steps(self, steps: int) -> Generator:
        """Refuse: raises GeneratorError."""
        raise GeneratorError(f"{self.name} makes images in its own number of steps only.")

    def modules(self) -> Mapping[str, nn.Module]:
        """Return no modules: none can be counted or changed."""
        return {}
