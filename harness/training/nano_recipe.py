"""What nano's training makes, by what recipe, in which stages, and where: read by the stages and by what runs them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from vhsbench.generators.training import Progress

Report = Callable[[Progress], None]
Say = Callable[[str], None]

VERIFIERS = ("vhs", "mllm-clip", "mllm-ae", "vhs-early")
LOG = "train.log"
_LOG_EVERY_S = 20.0


@dataclass(frozen=True)
class NanoRecipe:
    """The amounts of everything.

    The generator is asked every `generator_check_every` steps from `generator_least_steps` on how far it is from the
    published profile of SANA-Sprint. Its training ends when no task is further than `generator_tolerance` points, and
    the check nearest to the profile is kept.
    """

    seed: int = 0
    channels: int = 4  # of the latents: 4 is 48 to 1, 16 is 12 to 1
    block: int = 6  # l*, 0-based, of 8 blocks
    early_block: int = 3  # of a second VHS, for cascades
    glance: int | None = None  # a block with an auxiliary head while the generator trains
    autoencoder_steps: int = 1_800
    autoencoder_batch: int = 32
    generator_steps: int = 2_000
    generator_batch: int = 48
    generator_least_steps: int = 600
    generator_check_every: int = 100
    generator_check_prompts: int = 192
    generator_tolerance: float = 5.0
    clip_steps: int = 400
    llm_steps: int = 2_000
    llm_batch: int = 128
    pretrained: bool = True  # the verifiers' LLM; a new one otherwise
    align: Literal["connector", "all"] = "connector"  # what stage 1 trains
    candidates: int = 48_000
    validation_candidates: int = 4_800
    align_steps: int = 1_500
    finetune_steps: int = 2_500
    align_rate: float = 2e-3
    finetune_rate: float = 3e-4
    batch: int = 64

    def scaled(self, factor: float) -> NanoRecipe:
        """Multiply every amount by `factor`, for tests and trials."""
        amounts = {
            k: max(2, round(v * factor))
            for k, v in asdict(self).items()
            if k.endswith(("steps", "candidates"))
        }
        return replace(self, **amounts)


@dataclass(frozen=True)
class Plan:
    """One stage: the stages before it, the keys of the recipe that it reads itself, and what it writes."""

    after: tuple[str, ...]
    keys: tuple[str, ...]
    writes: tuple[str, ...]
    shared: bool = False  # several processes can do parts of it


# in the order they begin: the longest chain first, since with two processes the others run beside it
PLANS: dict[str, Plan] = {
    "autoencoder": Plan(
        (), ("seed", "channels", "autoencoder_steps", "autoencoder_batch"), ("autoencoder",)
    ),
    "llm": Plan((), ("seed", "llm_steps", "llm_batch"), ("weights/llm",)),
    "clip": Plan((), ("seed", "clip_steps"), ("weights/clip",)),
    "generator": Plan(
        ("autoencoder",),
        ("generator_steps", "generator_batch", "generator_least_steps", "generator_check_every",
         "generator_check_prompts", "generator_tolerance", "glance"),
        ("weights/generator", "looks.jsonl"),
    ),
    "candidates": Plan(
        ("generator", "clip"), ("block", "candidates", "validation_candidates"),
        ("data/hidden", "data/latents", "data/images"), shared=True,
    ),
    "early": Plan(("candidates",), ("early_block",), ("data/early",), shared=True),
}  # fmt: skip
_CHOICES = (
    "pretrained", "align", "align_steps", "finetune_steps", "align_rate", "finetune_rate", "batch",
)  # fmt: skip
for _kind in VERIFIERS:
    _data = "early" if _kind == "vhs-early" else "candidates"
    PLANS[_kind] = Plan((_data, "llm"), _CHOICES, (_kind, f"weights/{_kind}"))


def identity(stage: str, recipe: NanoRecipe) -> str:
    """Hash all that a stage's result depends on: its keys of the recipe, and the stages before it."""
    plan = PLANS[stage]
    own = {key: getattr(recipe, key) for key in plan.keys}
    text = json.dumps([stage, own, [identity(s, recipe) for s in plan.after]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Site:
    """Where stages run: the folder, the recipe and the machine; tells everyone how they get on."""

    def __init__(
        self, out: Path, recipe: NanoRecipe, device: str, threads: int, report: Report, say: Say
    ) -> None:
        self.out, self.recipe, self.device, self.threads = out, recipe, device, threads
        self._report, self._say = report, say
        self._logged: dict[str, float] = {}

    def say(self, text: str) -> None:
        self._say(text)
        self._log(text)

    def report(self, progress: Progress) -> None:
        """Pass progress on, and log it from time to time."""
        self._report(progress)
        now = time.monotonic()
        if (
            now - self._logged.get(progress.name, -_LOG_EVERY_S) < _LOG_EVERY_S
            and progress.step < progress.steps
        ):
            return
        self._logged[progress.name] = now
        loss = "" if progress.loss != progress.loss else f", loss {progress.loss:.4g}"  # nan: none
        self._log(f"{progress.name}: {progress.step} of {progress.steps} in {progress.seconds:.0f} s{loss}")

    def _log(self, text: str) -> None:
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode()
        descriptor = os.open(self.out / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, line)  # in one piece, whoever else writes
        finally:
            os.close(descriptor)
