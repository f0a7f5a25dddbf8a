"""Decoded pictures that stay on their device: what the variant `fast` decodes to in place of PIL images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, overload

import torch
from PIL import Image

from vhsbench.generators.noise import gaussian
from vhsbench.generators.protocol import NotFiniteError

if TYPE_CHECKING:
    from vhsbench.generators.pipeline import StagedPipeline

_THREADS = 4  # that draw noise


class Pictures(Sequence[Image.Image]):
    """B pictures as bytes [B, 3, H, W] on their device; they become PIL images when they are asked for.

    That raises NotFiniteError for a picture of NaN.
    """

    def __init__(self, levels: torch.Tensor, finite: torch.Tensor, name: str) -> None:
        self.levels, self._finite, self._name = levels, finite, name

    @classmethod
    def of(cls, pixels: torch.Tensor, name: str) -> Pictures:
        """Round pixels [B, 3, H, W] around -1..1 as diffusers does. Does not wait for the device."""
        shares = (pixels * 0.5 + 0.5).clamp(0, 1)
        least, most = pixels.flatten(1).aminmax(dim=1)  # NaN passes through both
        finite = least.isfinite() & most.isfinite()
        return cls((shares.float() * 255).round().to(torch.uint8), finite, name)

    def __len__(self) -> int:
        return len(self.levels)

    @overload
    def __getitem__(self, index: int) -> Image.Image: ...

    @overload
    def __getitem__(self, index: slice) -> Pictures: ...

    def __getitem__(self, index: int | slice) -> Image.Image | Pictures:
        if isinstance(index, slice):
            return Pictures(self.levels[index], self._finite[index], self._name)
        if not bool(self._finite[index]):
            raise NotFiniteError(f"{self._name}: the pixels of row {index} of the batch are NaN.", [index])
        return Image.fromarray(self.levels[index].permute(1, 2, 0).contiguous().cpu().numpy())

    def __iter__(self) -> Iterator[Image.Image]:
        """Yield all images, copied from the device at once."""
        self.check()
        yield from map(Image.fromarray, self.levels.permute(0, 2, 3, 1).contiguous().cpu().numpy())

    def check(self) -> None:
        """Wait for the device; raise NotFiniteError if a picture is of NaN."""
        for index, finite in enumerate(self._finite.tolist()):
            if not finite:
                self[index]


def without_waiting(generator: StagedPipeline) -> None:
    """Let a generator draw noise and decode without waiting for its device: `decode` returns Pictures."""
    changed: Any = generator
    changed.noise = _noise(generator)
    changed.decode = lambda latents: Pictures.of(generator.pixels(latents), generator.name)


def _noise(generator: StagedPipeline) -> Callable[[Sequence[int]], torch.Tensor]:
    side = generator.resolution // generator.pipeline.vae_scale_factor
    shape = generator.latent_channels, side, side
    threads = ThreadPoolExecutor(_THREADS)  # torch draws without Python's lock

    def noise(seeds: Sequence[int]) -> torch.Tensor:
        rows = list(threads.map(lambda seed: gaussian([seed], shape), seeds))
        # from memory that is not pinned a copy waits for all that is queued
        drawn = torch.empty(len(rows), *shape, pin_memory=generator.device.type == "cuda")
        torch.cat(rows, out=drawn)
        return drawn.to(generator.device, non_blocking=True)

    return noise
