"""Train a LoRA that gives nano's generator another style of picture, as the paper's B.4 does for SANA-Sprint.

The paper fine-tunes on an aesthetic data set that knows nothing of GenEval's prompts. Here that data set
is faded, smaller drawings of single objects, so the generator learns a style and forgets compositions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from vhsbench.generators.nano import models, teacher
from vhsbench.generators.nano.scenes import Scenes, draw
from vhsbench.generators.nano.training import Classroom, Lessons, Report
from vhsbench.generators.training import cosine, fit
from vhsbench.harness.common.shown import markdown_table

if TYPE_CHECKING:
    from diffusers import SanaSprintPipeline

_TARGETS = [f"{attention}.{part}" for attention in ("attn1", "attn2")
            for part in ("to_q", "to_k", "to_v", "to_out.0")]  # fmt: skip


@dataclass(frozen=True)
class LoraRecipe:
    """How the LoRA is trained; the defaults made the bundled one."""

    seed: int = 0
    rank: int = 8
    steps: int = 200
    batch: int = 16
    learning_rate: float = 1e-3
    smaller: float = 0.85  # radius, as a share of the world's
    faded: float = 0.32  # share of the background in each colour


def styled(scenes: Scenes, recipe: LoraRecipe) -> torch.Tensor:
    """Draw scenes in the style that the LoRA learns: RGB [B, 3, 64, 64] in 0..1."""
    return draw(replace(scenes, radius=recipe.smaller * scenes.radius), recipe.faded)


def train_lora(
    pipeline: SanaSprintPipeline,
    prompts: Sequence[teacher.Metadata],
    out: Path,
    recipe: LoraRecipe | None = None,
    report: Report = lambda _: None,
) -> Path:
    """Train a LoRA (peft) on the DiT's attention of `pipeline` and save it in diffusers' format in `out`.

    prompts: GenEval metadata; those of one object are used. The base weights stay as they are. The
    loss is the generator's own: the latents of the drawing, in one forward, from the same noise.
    """
    from peft import LoraConfig, get_peft_model_state_dict

    recipe = recipe or LoraRecipe()
    torch.manual_seed(recipe.seed)
    dit, vae = pipeline.transformer, pipeline.vae
    single = [p for p in prompts if len(p["include"]) == 1 and p["include"][0]["count"] == 1]
    dit.add_adapter(LoraConfig(r=recipe.rank, lora_alpha=recipe.rank, target_modules=_TARGETS))
    for name, parameter in dit.named_parameters():
        parameter.requires_grad_("lora_" in name)

    room = Classroom(single, dit.config.in_channels)
    lessons = Lessons.even(len(room.tags))

    def loss(step: int) -> torch.Tensor:
        rng = np.random.default_rng((recipe.seed, 3, step))
        given, texts, scenes = room.batch(rng, recipe.batch, lessons)
        with torch.no_grad():
            target = vae.encode(styled(scenes, recipe) * 2 - 1).latent * vae.config.scaling_factor
            embeds, mask = pipeline.encode_prompt(
                texts, device="cpu", max_sequence_length=models.PROMPT_TOKENS
            )
        output = dit(
            given,
            encoder_hidden_states=embeds,
            encoder_attention_mask=mask,
            guidance=torch.full((recipe.batch,), dit.config.guidance_embeds_scale),
            timestep=torch.ones(recipe.batch),
            return_dict=False,
        )[0]
        return (given - output - target).square().mean()

    trained = [p for p in dit.parameters() if p.requires_grad]
    seconds = fit(
        "lora", [dit], loss, [torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=0.0)],
        recipe.steps, out / "lora.state", schedule=cosine, report=report,
    )  # fmt: skip
    layers = {k: v.half().contiguous() for k, v in get_peft_model_state_dict(dit).items()}
    out.mkdir(parents=True, exist_ok=True)
    pipeline.save_lora_weights(out, transformer_lora_layers=layers)
    dit.unload_lora()
    (out / "README.md").write_text(_card(recipe, seconds), encoding="utf-8")
    return out


def _card(recipe: LoraRecipe, seconds: float) -> str:
    return f"""# nano LoRA: another style

Trained by `vhsbench train lora` on the CPU in {seconds:.0f} s (peft, diffusers' format) on procedural drawings of single
objects, smaller and faded. At strength 0 the generator is unchanged. Licence: MIT.

{markdown_table(["recipe", ""], asdict(recipe).items())}"""
