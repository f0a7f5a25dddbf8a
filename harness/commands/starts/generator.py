"""A generator of your own. Then `pip install -e .`, `vhsbench check my-generator`, and its name in a run's `generators`.

This one paints noise through a few blocks, to show the stages; for a diffusers pipeline see vhsbench.generators.sana.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from vhsbench.generators.noise import gaussian
from vhsbench.generators.protocol import (
    Block,
    Conditioning,
    GeneratorDefaults,
    GeneratorInfo,
    HiddenStates,
    blocks_of,
)

BLOCKS, CHANNELS, SIDE, RESOLUTION = 4, 3, 8, 64


class MyGenerator(GeneratorDefaults):
    """One denoising step through BLOCKS blocks, each of which mixes the channels and adds what the text says."""

    name, steps, blocks = "my-generator", 1, BLOCKS

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self._mix = torch.randn(BLOCKS, CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(0))

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode each prompt, once for all of its candidates."""
        rows = [np.random.default_rng(zlib.crc32(p.encode())).normal(size=CHANNELS) for p in prompts]
        return Conditioning(tuple(prompts), {"text": torch.tensor(np.array(rows), dtype=torch.float32)})

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        """Draw noise; row i depends on seeds[i] alone."""
        return gaussian(seeds, (CHANNELS, SIDE, SIDE))

    def head(self, cond: Conditioning, noise: torch.Tensor, block: Block) -> HiddenStates:
        """Run the blocks up to `block`: what VHS reads."""
        read = blocks_of(block)
        state, outputs = self._tokens(noise), []
        for i in range(read[-1] + 1):
            state = self._block(i, state, cond)
            outputs += [state] if i in read else []
        mean = None if isinstance(block, int) else torch.stack(outputs).mean(0)
        return HiddenStates(block, (state,), noise, cond, mean=mean)

    def tail(self, hidden: HiddenStates) -> torch.Tensor:
        """Run the other blocks: latents."""
        state = hidden.streams[0]
        for i in range(blocks_of(hidden.block)[-1] + 1, BLOCKS):
            state = self._block(i, state, hidden.cond)
        return state.transpose(1, 2).reshape(-1, CHANNELS, SIDE, SIDE)

    def denoise(self, cond: Conditioning, noise: torch.Tensor) -> torch.Tensor:
        """Run all blocks; the same as tail(head(...))."""
        return self.tail(self.head(cond, noise, 0))

    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """Turn latents into pictures."""
        pixels = (255 * torch.sigmoid(latents)).round().byte().permute(0, 2, 3, 1).numpy()
        return [Image.fromarray(p).resize((RESOLUTION, RESOLUTION), Image.Resampling.NEAREST) for p in pixels]

    def info(self) -> GeneratorInfo:
        """Say what `vhsbench list generators` shows."""
        return GeneratorInfo(
            self.name, "example", self._mix.numel(), BLOCKS, SIDE * SIDE, CHANNELS, RESOLUTION, 1,
            "Apache-2.0", "this file",
        )  # fmt: skip

    @staticmethod
    def _tokens(noise: torch.Tensor) -> torch.Tensor:
        return noise.flatten(2).transpose(1, 2)

    def _block(self, i: int, tokens: torch.Tensor, cond: Conditioning) -> torch.Tensor:
        return torch.tanh(tokens @ self._mix[i] + cond.tensors["text"][:, None])


def create(device: str = "cpu", steps: int = 1) -> MyGenerator:
    """Make it; what else it takes comes from the configuration's `options`."""
    return MyGenerator()
