"""Train nano's autoencoder and generator from scratch on procedural pictures, drawn where the training runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from vhsbench.generators.nano import models, teacher
from vhsbench.generators.nano.scenes import Scenes, draw, random_scenes
from vhsbench.generators.nano.teacher import LATENT_CHANNELS, LATENT_SIZE, Metadata, Orders
from vhsbench.generators.nano.world import COLORS, SHAPES
from vhsbench.generators.training import Progress, Until, device_of, fit, muon_and_adamw, trapezoid

if TYPE_CHECKING:
    from diffusers import AutoencoderDC, SanaSprintPipeline

Report = Callable[[Progress], None]

_HELD_OUT = 256  # pictures that the autoencoder is measured on
_AE_NOISE = 0.1  # std of the noise on latents, so that the decoder forgives the generator's errors
_LEAST = 1e-6  # of a variance that is divided by: a few scenes may happen to be of the same shapes
_AE_MIXED = 0.05  # weight of what shape and colour change in latents together, instead of each for itself


def pictures(rng: np.random.Generator, count: int, device: str = "cpu") -> torch.Tensor:
    """Draw random scenes, [count, 3, 64, 64] in -1..1; a quarter are blends, as an uncertain student paints."""
    drawn = draw(random_scenes(rng, rng.integers(0, 6, count), device))
    blends = count // 4
    others = draw(random_scenes(rng, rng.integers(0, 6, blends), device))
    share = torch.from_numpy(rng.uniform(0.2, 0.8, (blends, 1, 1, 1)).astype(np.float32)).to(device)
    drawn[:blends] += share * (others - drawn[:blends])
    return drawn * 2 - 1


def crossed(rng: np.random.Generator, count: int, device: str = "cpu") -> torch.Tensor:
    """Draw scenes A, B, A in B's colours, and B in A's colours, of the same places and sizes: [4, count, 3, 64, 64] in -1..1."""
    a = random_scenes(rng, rng.integers(1, 6, count), device)
    kinds, colors = (
        torch.from_numpy(rng.integers(many, size=a.kinds.shape)).to(device)
        for many in (len(SHAPES), len(COLORS))
    )
    b = replace(a, kinds=kinds, colors=colors)
    four = a, b, replace(a, colors=colors), replace(b, colors=a.colors)
    return torch.stack([draw(scenes) for scenes in four]) * 2 - 1


def train_autoencoder(
    steps: int,
    seed: int,
    work: Path,
    report: Report,
    batch: int = 24,
    device: str = "cpu",
    channels: int = LATENT_CHANNELS,
) -> tuple[AutoencoderDC, dict[str, float]]:
    """Train by L1 + 2 x L2 on pictures, with latents held near zero mean and unit variance per channel.

    What a shape and what a colour add to the latents is held near being independent of each other. Left alone, four of
    seven autoencoders mixed them, and the generators behind two of these did not learn their tasks in the steps given (docs/nano.md).
    """
    torch.manual_seed(seed)
    vae = models.build_autoencoder(channels).to(device, memory_format=torch.channels_last)

    def loss(step: int) -> torch.Tensor:
        torch.manual_seed(seed * 1_000_003 + step)
        rng = np.random.default_rng((seed, step))
        pixels, four = pictures(rng, batch, device), crossed(rng, max(1, batch // 4), device)
        with torch.autocast(vae.device.type, torch.bfloat16):
            both = vae.encode(torch.cat([pixels, four.flatten(0, 1)])).latent
            latents = both[:batch]
            noisy = latents + _AE_NOISE * torch.randn(latents.shape).to(device)
            decoded = vae.decode(noisy).sample.float()
        latents = latents.float()
        mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
        spread = mean.square().mean() + (std - 1).square().mean()
        mixed = mixed_share(both[batch:].float().unflatten(0, (4, -1)))
        painted = F.l1_loss(decoded, pixels) + 2 * F.mse_loss(decoded, pixels)
        return painted + 0.01 * spread + _AE_MIXED * mixed

    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0)
    seconds = fit(
        "autoencoder", [vae], loss, [optimizer], steps, work / "autoencoder.state",
        schedule=trapezoid, ema=0.995, report=report,
    )  # fmt: skip
    with torch.inference_mode():
        pixels = pictures(np.random.default_rng((seed, 1 << 40)), _HELD_OUT, device)
        latents = vae.encode(pixels).latent
        error = F.mse_loss(vae.decode(latents).sample.clamp(-1, 1), pixels).item()
        four = crossed(np.random.default_rng((seed, 1 << 41)), _HELD_OUT // 4, device)
        mixed = mixed_share(vae.encode(four.flatten(0, 1)).latent.unflatten(0, (4, -1))).item()
    vae.register_to_config(scaling_factor=round(1 / latents.std().item(), 5))
    vae.to("cpu", memory_format=torch.contiguous_format)
    quality = {"psnr_db": 10 * float(np.log10(4 / error)), "mixed_percent": 100 * mixed}
    return vae, quality | {"seconds": seconds}


def mixed_share(four: torch.Tensor) -> torch.Tensor:
    """Return the share of what a shape, and of what a colour, changes in `crossed` latents [4, B, ...] that hangs on the other.

    It is the mean of both shares: 0 where shape and colour add up, 1 where every pair of them has latents of its own. It is
    the same for latents of any scale.
    """
    a, b, recoloured, exchanged = four
    mixed = (a + b - recoloured - exchanged).square().mean() / 4
    colour, shape = ((a - other).square().mean() / 2 + _LEAST for other in (recoloured, exchanged))
    return (mixed / colour + mixed / shape) / 2


@dataclass(frozen=True)
class Lessons:
    """How the teacher's tasks are taught, by task in the order of the prompts' tags.

    `shares` of the samples, summing to 1, and `doubts`: the standard deviation of the chance by which the teacher decides
    ties otherwise than the noise says. A student cannot learn that part, so a task with more doubt stays harder.
    """

    shares: tuple[float, ...]
    doubts: tuple[float, ...]

    @classmethod
    def even(cls, tasks: int) -> Lessons:
        return cls((1 / tasks,) * tasks, (0.0,) * tasks)


class Classroom:
    """The prompts of all tasks, from which batches of the teacher's examples are drawn."""

    def __init__(self, prompts: Sequence[Metadata], channels: int, device: str = "cpu") -> None:
        self.tags = tuple(dict.fromkeys(str(p["tag"]) for p in prompts))
        tasks = [[p for p in prompts if p["tag"] == tag] for tag in self.tags]
        self._texts = [str(p["prompt"]) for task in tasks for p in task]
        self._orders = Orders.of([p for task in tasks for p in task], device)
        self._sizes = np.array([len(task) for task in tasks])
        self._channels, self._device = channels, device

    def batch(
        self, rng: np.random.Generator, count: int, lessons: Lessons
    ) -> tuple[torch.Tensor, list[str], Scenes]:
        """Draw noise [B, C, 8, 8], prompts, and the scenes that the teacher draws of them."""
        noise = rng.standard_normal((count, self._channels, LATENT_SIZE, LATENT_SIZE), np.float32)
        # evenly spread, so that every batch has each task's share
        places = (rng.random() + np.arange(count)) / count
        task = np.searchsorted(np.cumsum(lessons.shares)[:-1], places, side="right")
        chosen = (np.cumsum(self._sizes) - self._sizes)[task] + rng.integers(self._sizes[task])
        chance = rng.standard_normal((count, teacher.FEATURES, 9), np.float32)
        doubt = chance * np.asarray(lessons.doubts, np.float32)[task][:, None, None]
        given = torch.from_numpy(noise).to(self._device)
        rows = torch.from_numpy(chosen).to(self._device)
        scenes = teacher.scenes_of(
            self._orders[rows], teacher.scores(given), torch.from_numpy(doubt).to(self._device)
        )
        return given, [self._texts[i] for i in chosen], scenes


class Listener:
    """The text encoder over prompts of which every distinct one is tokenised once."""

    def __init__(self, pipeline: SanaSprintPipeline, device: str) -> None:
        self._text, self._tokenizer, self._device = pipeline.text_encoder, pipeline.tokenizer, device
        self._known: dict[str, list[int]] = {}

    def __call__(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what pipeline.encode_prompt does: embeddings [B, L, D] and their mask [B, L]."""
        if new := [p for p in dict.fromkeys(prompts) if p not in self._known]:
            self._known |= zip(new, self._tokenizer(new).input_ids, strict=True)
        rows = [self._known[p] for p in prompts]
        pad: int = self._tokenizer.pad_token_id
        ids = torch.tensor([r + [pad] * (models.PROMPT_TOKENS - len(r)) for r in rows]).to(self._device)
        mask = (ids != pad).long()
        return self._text(ids, attention_mask=mask)[0], mask


class _Glance(nn.Module):
    """An auxiliary head that reads the latents off one block's hidden states while the generator trains."""

    def __init__(self, dit: Any, block: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dit.config.num_attention_heads * dit.config.attention_head_dim)
        self.proj_out = nn.Linear(self.norm.normalized_shape[0], dit.config.out_channels)
        self._seen: torch.Tensor | None = None  # only the latest: sampling triggers the hook, too

        # no method: deepcopy of the DiT would copy its head as well
        def see(_block: nn.Module, _args: Any, output: torch.Tensor) -> None:
            self._seen = output

        dit.transformer_blocks[block].register_forward_hook(see)

    def forward(self) -> torch.Tensor:
        """Return the output [B, C, 8, 8] that these hidden states already tell."""
        found: torch.Tensor = self.proj_out(self.norm(self._seen))
        return found.transpose(1, 2).unflatten(2, (LATENT_SIZE, LATENT_SIZE))


def train_generator(
    vae: AutoencoderDC,
    prompts: Sequence[Metadata],
    steps: int,
    seed: int,
    work: Path,
    report: Report,
    until: Callable[[SanaSprintPipeline], Until] | None = None,
    batch: int = 48,
    device: str = "cpu",
    lessons: Callable[[int], Lessons] | None = None,
    glance: int | None = None,
) -> tuple[SanaSprintPipeline, dict[str, float]]:
    """Regress, in one forward, the latents of the teacher's picture from the same noise.

    At the one step's time (pi/2) SANA-Sprint's result is x0 = z - F(z), so the loss is on z - F. Rates stay constant and
    the weights are averaged, so that the training may end at any step: `until` does that, which leaves the generator
    imperfect, and `lessons` says by step how each task is taught. The error is squared for four fifths of
    the steps, then smooth L1, which tolerates what the noise does not decide. `glance` is a block at which an auxiliary
    head learns the latents too, with half the weight; it is thrown away.
    """
    pipeline = models.build_pipeline(vae, seed).to(device)
    dit, text = pipeline.transformer, pipeline.text_encoder
    scale = vae.config.scaling_factor
    room = Classroom(prompts, vae.config.latent_channels, device)
    listen, modules = Listener(pipeline, device), [dit, text]
    head = None if glance is None else _Glance(dit, glance).to(device)
    lessons = lessons or (lambda _: Lessons.even(len(room.tags)))
    guidance = torch.full((batch,), dit.config.guidance_embeds_scale, device=device)
    time = torch.ones(batch, device=device)

    def loss(step: int) -> torch.Tensor:
        noise, texts, scenes = room.batch(np.random.default_rng((seed, step)), batch, lessons(step))
        with torch.autocast(device_of(dit).type, torch.bfloat16):
            with torch.no_grad():
                target = vae.encode(draw(scenes) * 2 - 1).latent.float() * scale
            embeds, mask = listen(texts)
            output = dit(
                noise,
                encoder_hidden_states=embeds,
                encoder_attention_mask=mask,
                guidance=guidance,
                timestep=time,
                return_dict=False,
            )[0]
            early = None if head is None else head()
        found = _error(noise - output.float() - target, step, steps)
        return found if early is None else found + 0.5 * _error(noise - early.float() - target, step, steps)

    trained = modules if head is None else [*modules, head]
    seconds = fit(
        "generator", trained, loss, muon_and_adamw(trained), steps,
        work / "generator.state", schedule=_constant, ema=0.998, report=report,
        until=until(pipeline) if until else None,
    )  # fmt: skip
    return pipeline.to("cpu"), {"seconds": seconds}


def _constant(progress: float, warm_up: float = 0.02) -> float:
    return min(1.0, (progress + 1e-3) / warm_up)


def _error(error: torch.Tensor, step: int, steps: int) -> torch.Tensor:
    if step < 0.8 * steps:
        return error.square().mean()
    return F.smooth_l1_loss(error, torch.zeros_like(error), beta=0.1)


def halved(pipeline: SanaSprintPipeline) -> SanaSprintPipeline:
    """Copy a pipeline to the CPU in half precision."""
    from diffusers import SanaSprintPipeline

    parts = {
        name: deepcopy(getattr(pipeline, name)).cpu().half()
        for name in ("vae", "transformer", "text_encoder")
    }
    copy = SanaSprintPipeline(tokenizer=pipeline.tokenizer, scheduler=pipeline.scheduler, **parts)
    copy.set_progress_bar_config(disable=True)
    return copy
