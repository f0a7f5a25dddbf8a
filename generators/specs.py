"""What is known of each generator without building it: sizes from the architectures, hub ids, licences."""

from __future__ import annotations

from dataclasses import dataclass

from generators.registry import RegistryError, nearest


@dataclass(frozen=True)
class GeneratorSpec:
    """One generator's sizes, at its default resolution."""

    name: str
    family: str
    parameters: int  # of the DiT
    blocks: int
    tokens: int  # image tokens the DiT works on
    hidden_width: int
    resolution: int  # pixels, square
    steps: int
    latent_channels: int
    latent_size: int  # latents are [latent_channels, latent_size, latent_size]
    licence: str
    hub_id: str  # empty where the weights are bundled
    revision: str


SPECS = {
    spec.name: spec
    for spec in (
        GeneratorSpec("nano", "SANA-Sprint", 2_126_864, 8, 64, 128, 64, 1, 16, 8, "MIT", "", ""),
        GeneratorSpec(
            "sana-sprint", "SANA-Sprint", 1_610_000_000, 20, 1024, 2240, 1024, 1, 32, 32,
            "NSCL v2-custom", "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers", "main",
        ),
        GeneratorSpec(
            "pixart-alpha-dmd", "PixArt-alpha", 611_000_000, 28, 1024, 1152, 512, 1, 4, 64,
            "OpenRAIL++", "PixArt-alpha/PixArt-Alpha-DMD-XL-2-512x512", "main",
        ),
        GeneratorSpec(
            "flux-schnell", "FLUX", 11_890_000_000, 57, 4096, 3072, 1024, 1, 16, 128,
            "Apache-2.0", "black-forest-labs/FLUX.1-schnell", "main",
        ),
        GeneratorSpec(
            "sd3.5-turbo", "Stable Diffusion 3.5", 8_060_000_000, 38, 4096, 2432, 1024, 1, 16, 128,
            "Stability Community", "stabilityai/stable-diffusion-3.5-large-turbo", "main",
        ),
    )
}  # fmt: skip


def get(name: str) -> GeneratorSpec:
    """The spec of `name`. Raises RegistryError for an unknown one."""
    if name not in SPECS:
        raise RegistryError(f"unknown generator '{name}'; {nearest(name, list(SPECS))}")
    return SPECS[name]
