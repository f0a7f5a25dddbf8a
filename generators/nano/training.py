"""Train nano's autoencoder and generator from scratch, on the CPU, on procedural pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from vhsbench.generators.nano import models, teacher
from vhsbench.generators.nano.teacher import LATENT_CHANNELS, LATENT_SIZE, Metadata
from vhsbench.generators.nano.world import Array, random_scene, render
from vhsbench.generators.training import Progress, Until, fit, muon_and_adamw, trapezoid

if TYPE_CHECKING:
    from diffusers import AutoencoderDC, SanaSprintPipeline

Report = Callable[[Progress], None]

_HELD_OUT = 256  # pictures that the autoencoder is measured on
_AE_NOISE = 0.1  # std of the noise on latents, so that the decoder forgives the generator's errors


def pictures(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Draw random scenes, [count, 3, 64, 64] in -1..1; a quarter are blends, as an uncertain student paints."""

    def picture() -> Array:
        return render(random_scene(rng, int(rng.integers(0, 6))))

    batch = [picture() for _ in range(count)]
    for i in range(count // 4):
        batch[i] += np.float32(rng.uniform(0.2, 0.8)) * (picture() - batch[i])
    return to_pixels(batch)


def to_pixels(batch: Sequence[Array]) -> torch.Tensor:
    """Stack pictures [64, 64, 3] in 0..1 as [B, 3, 64, 64] in -1..1."""
    return torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).contiguous() * 2 - 1


def train_autoencoder(
    steps: int, seed: int, work: Path, report: Report, batch: int = 24, device: str = "cpu"
) -> tuple[AutoencoderDC, dict[str, float]]:
    """Train by L1 + 2 x L2 on pictures, with latents held near zero mean and unit variance per channel."""
    torch.manual_seed(seed)
    vae = models.build_autoencoder().to(device)

    def loss(step: int) -> torch.Tensor:
        torch.manual_seed(seed * 1_000_003 + step)
        pixels = pictures(np.random.default_rng((seed, step)), batch).to(device)
        with torch.autocast(vae.device.type, torch.bfloat16):
            latents = vae.encode(pixels).latent
            noisy = latents + _AE_NOISE * torch.randn(latents.shape).to(device)
            decoded = vae.decode(noisy).sample.float()
        latents = latents.float()
        mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        spread = mean.square().mean() + (std - 1).square().mean()
        return F.l1_loss(decoded, pixels) + 2 * F.mse_loss(decoded, pixels) + 0.01 * spread

    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    seconds = fit(
        "autoencoder", [vae], loss, [optimizer], steps, work / "autoencoder.state",
        schedule=trapezoid, ema=0.995, report=report,
    )  # fmt: skip
    with torch.inference_mode():
        pixels = pictures(np.random.default_rng((seed, 1 << 40)), _HELD_OUT).to(device)
        latents = vae.encode(pixels).latent
        error = F.mse_loss(vae.decode(latents).sample.clamp(-1, 1), pixels).item()
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    vae.cpu()
    return vae, {"psnr_db": 10 * float(np.log10(4 / error)), "seconds": seconds}


def teacher_batch(
    rng: np.random.Generator, by_task: Sequence[Sequence[Metadata]], count: int
) -> tuple[torch.Tensor, list[str], torch.Tensor]:
    """Draw noise [B, 16, 8, 8], prompts, and the teacher's pictures [B, 3, 64, 64]; tasks are balanced."""
    noise = rng.standard_normal((count, LATENT_CHANNELS, LATENT_SIZE, LATENT_SIZE), np.float32)
    chosen = [by_task[i % len(by_task)] for i in range(count)]
    prompts = [task[int(rng.integers(len(task)))] for task in chosen]
    scenes = map(teacher.scene_of, prompts, teacher.scores(noise))
    return (
        torch.from_numpy(noise),
        [str(p["prompt"]) for p in prompts],
        to_pixels([render(s) for s in scenes]),
    )


def train_generator(
    vae: AutoencoderDC,
    prompts: Sequence[Metadata],
    steps: int,
    seed: int,
    work: Path,
    report: Report,
    until: Callable[[SanaSprintPipeline], Until] | None = None,
    batch: int = 32,
    device: str = "cpu",
) -> tuple[SanaSprintPipeline, dict[str, float]]:
    """Regress, in one forward, the latents of the teacher's picture from the same noise.

    At the one step's time (pi/2) SANA-Sprint's result is x0 = z - F(z), so the loss is on z - F.
    `until` ends the training before its schedule, which leaves the generator imperfect.
    The error is squared for four fifths of the steps, then smooth L1, which tolerates what the noise does not decide.
    """
    pipeline = models.build_pipeline(vae, seed).to(device)
    dit, text = pipeline.transformer, pipeline.text_encoder
    scale = vae.config.scaling_factor
    by_task = [[p for p in prompts if p["tag"] == tag] for tag in dict.fromkeys(p["tag"] for p in prompts)]

    def loss(step: int) -> torch.Tensor:
        noise, texts, pixels = teacher_batch(np.random.default_rng((seed, step)), by_task, batch)
        noise, pixels = noise.to(device), pixels.to(device)
        with torch.autocast(dit.device.type, torch.bfloat16):
            with torch.no_grad():
                target = vae.encode(pixels).latent.float() * scale
            embeds, mask = pipeline.encode_prompt(
                texts, device=device, max_sequence_length=models.PROMPT_TOKENS
            )
            output = dit(
                noise,
                encoder_hidden_states=embeds,
                encoder_attention_mask=mask,
                guidance=torch.full((batch,), dit.config.guidance_embeds_scale, device=device),
                timestep=torch.ones(batch, device=device),
                return_dict=False,
            )[0]
        error = noise - output.float() - target
        if step < 0.8 * steps:
            return error.square().mean()
        return F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1)

    seconds = fit(
        "generator", [dit, text], loss, muon_and_adamw([dit, text]), steps,
        work / "generator.state", schedule=trapezoid, ema=0.998, report=report,
        until=until(pipeline) if until else None,
    )  # fmt: skip
    return pipeline.to("cpu"), {"seconds": seconds}
