"""The facts of each generator, known without building it: sizes, the paper's settings, licence, source."""

from __future__ import annotations

from dataclasses import dataclass

from vhsbench.generators.protocol import GeneratorInfo
from vhsbench.harness.common.registry import RegistryError, nearest


@dataclass(frozen=True)
class GeneratorSpec:
    """One generator at its default settings; sizes are counted from the architecture (meta device)."""

    name: str
    family: str
    pipeline: str  # diffusers' class
    parameters: int  # of the DiT
    text_parameters: int  # of all text encoders
    vae_parameters: int
    blocks: int
    tokens: int  # image tokens at `resolution`
    hidden_width: int
    resolution: int  # pixels, square
    resolution_multiple: int  # pixels that one image token spans, a side
    max_resolution: int | None  # where the DiT's positions end; None: nowhere
    steps: int
    max_steps: int
    guidance_scale: float
    latent_channels: int
    latent_size: int  # at `resolution`
    dtype: str
    licence: str
    hub_id: str | None  # None: bundled
    revision: str  # branch, tag or commit

    @property
    def total_parameters(self) -> int:
        return self.parameters + self.text_parameters + self.vae_parameters

    @property
    def source(self) -> str:
        return f"{self.hub_id}@{self.revision}" if self.hub_id else "bundled"

    def info(self) -> GeneratorInfo:
        return GeneratorInfo(
            name=self.name,
            family=self.family,
            parameters=self.parameters,
            blocks=self.blocks,
            tokens=self.tokens,
            hidden_width=self.hidden_width,
            resolution=self.resolution,
            steps=self.steps,
            licence=self.licence,
            source=self.source,
        )


_SPECS = (
    GeneratorSpec(
        name="nano",
        family="SANA-Sprint",
        pipeline="SanaSprintPipeline",
        parameters=2_123_780,
        text_parameters=227_712,
        vae_parameters=407_047,
        blocks=8,
        tokens=64,
        hidden_width=128,
        resolution=64,
        resolution_multiple=8,
        max_resolution=None,
        steps=1,
        max_steps=30,
        guidance_scale=1.0,
        latent_channels=4,
        latent_size=8,
        dtype="float32",
        licence="MIT",
        hub_id=None,
        revision="",
    ),
    GeneratorSpec(
        name="sana-sprint",
        family="SANA-Sprint",
        pipeline="SanaSprintPipeline",
        parameters=1_610_237_472,
        text_parameters=2_614_341_888,
        vae_parameters=312_250_275,
        blocks=20,
        tokens=1024,
        hidden_width=2240,
        resolution=1024,
        resolution_multiple=32,
        max_resolution=None,
        steps=1,
        max_steps=30,
        guidance_scale=1.0,
        latent_channels=32,
        latent_size=32,
        dtype="bfloat16",
        licence="NVIDIA NSCL v2-custom, non-commercial",
        hub_id="Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers",
        revision="main",
    ),
    GeneratorSpec(
        name="sana-1.5",
        family="SANA-1.5",
        pipeline="SanaPipeline",
        parameters=1_604_641_952,
        text_parameters=2_614_341_888,
        vae_parameters=312_250_275,
        blocks=20,
        tokens=1024,
        hidden_width=2240,
        resolution=1024,
        resolution_multiple=32,
        max_resolution=None,
        steps=16,
        max_steps=100,
        guidance_scale=4.5,
        latent_channels=32,
        latent_size=32,
        dtype="bfloat16",
        licence="NVIDIA NSCL v2-custom, non-commercial",
        hub_id="Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers",
        revision="main",
    ),
    GeneratorSpec(
        name="pixart-alpha-dmd",
        family="PixArt-alpha-DMD",
        pipeline="PixArtAlphaPipeline",
        parameters=610_856_096,
        text_parameters=4_762_310_656,
        vae_parameters=83_653_863,
        blocks=28,
        tokens=1024,
        hidden_width=1152,
        resolution=512,
        resolution_multiple=16,
        max_resolution=None,
        steps=1,
        max_steps=1,
        guidance_scale=1.0,
        latent_channels=4,
        latent_size=64,
        dtype="bfloat16",
        licence="CreativeML Open RAIL++-M",
        hub_id="PixArt-alpha/PixArt-Alpha-DMD-XL-2-512x512",
        revision="main",
    ),
    GeneratorSpec(
        name="flux-schnell",
        family="FLUX.1",
        pipeline="FluxPipeline",
        parameters=11_891_178_560,
        text_parameters=4_885_371_136,
        vae_parameters=83_819_683,
        blocks=57,
        tokens=4096,
        hidden_width=3072,
        resolution=1024,
        resolution_multiple=16,
        max_resolution=None,
        steps=1,
        max_steps=50,
        guidance_scale=0.0,
        latent_channels=16,
        latent_size=128,
        dtype="bfloat16",
        licence="Apache-2.0",
        hub_id="black-forest-labs/FLUX.1-schnell",
        revision="main",
    ),
    GeneratorSpec(
        name="sd3.5-turbo",
        family="Stable Diffusion 3.5",
        pipeline="StableDiffusion3Pipeline",
        parameters=8_056_627_520,
        text_parameters=5_580_620_800,
        vae_parameters=83_819_683,
        blocks=38,
        tokens=4096,
        hidden_width=2432,
        resolution=1024,
        resolution_multiple=16,
        max_resolution=3072,
        steps=1,
        max_steps=50,
        guidance_scale=0.0,
        latent_channels=16,
        latent_size=128,
        dtype="bfloat16",
        licence="Stability AI Community",
        hub_id="stabilityai/stable-diffusion-3.5-large-turbo",
        revision="main",
    ),
)

SPECS: dict[str, GeneratorSpec] = {spec.name: spec for spec in _SPECS}


def get(name: str) -> GeneratorSpec:
    """Return the spec of a generator. Raises RegistryError for an unknown name."""
    if name not in SPECS:
        raise RegistryError(f"unknown generator '{name}'; {nearest(name, list(SPECS))}")
    return SPECS[name]
