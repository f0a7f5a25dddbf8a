"""A diffusers pipeline behind the stage protocol; what the families share, written once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import nn

from vhsbench.generators.checks import check_resolution, check_steps
from vhsbench.generators.noise import gaussian
from vhsbench.generators.protocol import (
    Block,
    Conditioning,
    GeneratorError,
    GeneratorInfo,
    HiddenStates,
    NotFiniteError,
    blocks_of,
)
from vhsbench.generators.split import BlockSplit

if TYPE_CHECKING:
    from PIL import Image

    from vhsbench.generators.specs import GeneratorSpec

Tensors = tuple[torch.Tensor, ...]


class StagedPipeline:
    """Encode, noise, head, tail, denoise and decode, all by calls of a diffusers pipeline.

    A family defines how its pipeline is called: `embeddings` and `settings`, and where it differs from the
    defaults, the DiT's lists of blocks, the number of streams that a block returns (the image's is the last),
    and how the pipeline packs latents. `text_device` is where the text encoders stay, if elsewhere.
    """

    block_lists: Sequence[str] = ("transformer_blocks",)
    streams = 1

    def __init__(
        self,
        spec: GeneratorSpec,
        pipeline: Any,
        *,
        steps: int,
        resolution: int,
        guidance_scale: float,
        source: str,
        revision: str = "",
        text_device: str | torch.device | None = None,
        lora: Mapping[str, int] | None = None,
    ) -> None:
        self.name = spec.name
        self.steps = steps
        self.pipeline = pipeline
        self.resolution = resolution
        self.guidance_scale = guidance_scale
        self.revision = revision or source
        self._spec, self._source, self._lora = spec, source, dict(lora or {})
        self._split = BlockSplit(pipeline.transformer, self.block_lists, self.streams)
        names = [n for n in pipeline.components if n.startswith("text_encoder")]
        self._encoders = {n: getattr(pipeline, n) for n in names}
        self._text_device = torch.device(text_device) if text_device else None
        self._apart = text_device is not None
        if self._apart:
            self._attach(False)
        check_resolution(spec.name, resolution, self._token_pixels, self._largest())

    @property
    def blocks(self) -> int:
        return len(self._split)

    @property
    def device(self) -> torch.device:
        return torch.device(self.pipeline.transformer.device)

    @property
    def guided(self) -> bool:
        """Whether the DiT runs twice as many rows, for classifier-free guidance."""
        return False

    # what a family supplies

    def embeddings(self, prompts: list[str], device: torch.device) -> Mapping[str, torch.Tensor | None]:
        """Return the pipeline's keyword arguments that stand for the prompts, each [B, ...]; None is left out."""
        raise NotImplementedError

    def settings(self, noise: torch.Tensor) -> dict[str, Any]:
        """Return further keyword arguments of the pipeline's call for z_T `noise` [B, C, h, w]."""
        return {}

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """Bring latents [B, C, h, w] into the form that the pipeline takes."""
        return latents

    def unpack(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the inverse of `pack`."""
        return latents

    def with_steps(self, steps: int) -> Self:
        """See Generator.with_steps."""
        check_steps(self._spec, steps)
        other = copy.copy(self)
        other.steps = steps
        return other

    # the stages

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        with self._text_encoders():
            tensors = self.embeddings(list(prompts), self._text_device or self.device)
        kept = {k: v.to(self.device) for k, v in tensors.items() if v is not None}
        return Conditioning(tuple(prompts), kept)

    def free_text_encoders(self) -> None:
        """Free the text encoders' memory; from now on only prompts already encoded can be used."""
        self._attach(False)
        self._encoders = {}

    def noise(self, seeds: Sequence[int]) -> torch.Tensor:
        side = self.resolution // self.pipeline.vae_scale_factor
        return gaussian(seeds, (self.latent_channels, side, side)).to(self.device)

    def head(self, cond: Conditioning, noise: torch.Tensor, block: Block) -> HiddenStates:
        return self._states(cond, noise, block, blocks_of(block))

    def _states(
        self, cond: Conditioning, noise: torch.Tensor, block: Block, places: Sequence[int]
    ) -> HiddenStates:
        """Run the DiT to the last of `places`, where the blocks of `block` are."""
        read, outputs = self._split.head(places, lambda: self.denoise(cond, noise), self.steps)
        streams = [self._halves(r) for r in read]
        return HiddenStates(
            block, streams[-1], noise, cond, self._halves(outputs), image_stream=-1,
            mean=None if isinstance(block, int) else _mean([s[-1] for s in streams]),
        )  # fmt: skip

    def advance(self, hidden: HiddenStates, block: Block) -> HiddenStates:
        done = blocks_of(hidden.block)[-1]
        if blocks_of(block)[0] <= done:
            raise GeneratorError(
                f"block {block} does not come after block {done}; nothing goes back in the DiT."
            )
        streams, outputs = self._whole(hidden.streams), self._whole(hidden.step_outputs)
        with self._split.resumed(done, streams, outputs):
            return self._states(hidden.cond, hidden.noise, block, [b - done for b in blocks_of(block)])

    def tail(self, hidden: HiddenStates) -> torch.Tensor:
        streams, outputs = self._whole(hidden.streams), self._whole(hidden.step_outputs)
        with self._split.resumed(blocks_of(hidden.block)[-1], streams, outputs):
            return self.denoise(hidden.cond, hidden.noise)

    @torch.inference_mode()
    def denoise(self, cond: Conditioning, noise: torch.Tensor) -> torch.Tensor:
        tensors: dict[str, Any] = dict(cond.tensors)
        latents: torch.Tensor = self.pipeline(
            **tensors,
            **self.settings(noise),
            latents=self.pack(noise),
            num_inference_steps=self.steps,
            guidance_scale=self.guidance_scale,
            height=self.resolution,
            width=self.resolution,
            output_type="latent",
            return_dict=False,
        )[0]
        return self.unpack(latents)

    @torch.inference_mode()
    def pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents [B, C, h, w] to pixels [B, 3, H, W] around -1..1."""
        vae = self.pipeline.vae
        latents = latents.to(vae.dtype) / vae.config.scaling_factor
        shift = getattr(vae.config, "shift_factor", None)
        pixels: torch.Tensor = vae.decode(latents + shift if shift else latents, return_dict=False)[0]
        return pixels

    def decode(self, latents: torch.Tensor) -> list[Image.Image]:
        """Decode to RGB images; on the meta device, which has no values, to pixel tensors [3, H, W].

        Raises NotFiniteError for NaN, which would become black pixels.
        """
        pixels = self.pixels(latents)
        kind = "pt" if pixels.is_meta else "pil"
        try:
            with np.errstate(invalid="raise"):  # NumPy looks anyway when it makes bytes of floats on the CPU
                return list(self.pipeline.image_processor.postprocess(pixels, output_type=kind))
        except FloatingPointError:
            rows = (~pixels.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
            raise NotFiniteError(
                f"{self.name}: the pixels of row(s) {', '.join(map(str, rows))} of the batch are NaN; "
                "a dtype of wider range (bfloat16, float32) may help.", rows,
            ) from None  # fmt: skip

    def modules(self) -> dict[str, nn.Module]:
        """See Generator.modules."""
        return {n: part for n, part in self.pipeline.components.items() if isinstance(part, nn.Module)}

    def info(self) -> GeneratorInfo:
        transformer = self.pipeline.transformer
        config = transformer.config
        return GeneratorInfo(
            name=self.name,
            family=self._spec.family,
            parameters=sum(p.numel() for p in transformer.parameters()),
            blocks=self.blocks,
            tokens=(self.resolution // self._token_pixels) ** 2,
            hidden_width=config.num_attention_heads * config.attention_head_dim,
            resolution=self.resolution,
            steps=self.steps,
            licence=self._spec.licence,
            source=self._source,
            lora=self._lora,
        )

    @property
    def latent_channels(self) -> int:
        return int(self.pipeline.vae.config.latent_channels)

    @property
    def _token_pixels(self) -> int:
        """The pixels that one image token spans, a side."""
        return int(self.pipeline.vae_scale_factor * self.pipeline.transformer.config.patch_size)

    def _largest(self) -> int | None:
        """Return the largest resolution that the DiT has positions for; None if there is no limit."""
        positions = getattr(self.pipeline.transformer.config, "pos_embed_max_size", None)
        return positions * self._token_pixels if positions else None

    @contextmanager
    def _text_encoders(self) -> Iterator[None]:
        """Attach the text encoders to the pipeline, which must not see them while it denoises on another device."""
        if not self._encoders:
            raise GeneratorError(
                f"{self.name}: the text encoders were freed; encode all prompts before freeing them."
            )
        self._attach(True)
        try:
            yield
        finally:
            if self._apart:
                self._attach(False)

    def _attach(self, present: bool) -> None:
        for name, encoder in self._encoders.items():
            setattr(self.pipeline, name, encoder if present else None)

    def _halves(self, tensors: Tensors) -> Tensors:
        """Split each guided tensor of 2 B rows into two of B, so that a row is a candidate everywhere."""
        return tuple(h for t in tensors for h in t.chunk(2)) if self.guided else tensors

    def _whole(self, tensors: Tensors) -> Tensors:
        if not self.guided:
            return tensors
        return tuple(torch.cat(pair) for pair in zip(tensors[::2], tensors[1::2], strict=True))


def _mean(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Average in float32: the outputs of late blocks are large."""
    return torch.stack(list(tensors)).float().mean(0).to(tensors[0].dtype)
