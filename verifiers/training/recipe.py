"""The recipe of a training: the two stages' amounts, rates and losses, and the engine they run on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from vhsbench.generators.protocol import Block, read_block
from vhsbench.harness.common.limits import LARGEST_TRAINING_SEED, MOST_THREADS
from vhsbench.harness.common.settings import HUB_ID, Amount, Local, Strict, Threads
from vhsbench.verifiers.mllm import PAPER_TEMPLATE

NEW_LLM = "nano-new"
CAPTION_TEMPLATE = "<image> describe the image"
Rate = Annotated[float, Field(gt=0)]
Epochs = Annotated[float, Field(gt=0, le=1e6)]
TrainSeed = Annotated[int, Field(ge=0, le=LARGEST_TRAINING_SEED, strict=True)]
Size = Annotated[int, Field(ge=1, le=65_536, strict=True)]  # of a new model


class LlmRecipe(Strict):
    """The LLM that a verifier starts from.

    `name`: a hub id (owner/name) or folder of a Qwen2 with its tokenizer; "nano": the bundled one, pretrained on texts of
    nano's world; "nano-new": an untrained one of its words and sizes. `sizes` changes those sizes, in Qwen2Config's
    names (only for nano-new).
    """

    short = "name"

    name: Annotated[str, Local(names=f"nano|{NEW_LLM}", other=HUB_ID)] = "Qwen/Qwen2.5-0.5B-Instruct"
    """A hub id or folder of a Qwen2 with its tokenizer, or nano (pretrained), or nano-new (untrained)."""
    revision: str | None = None
    """A commit of the hub."""
    sizes: dict[str, Size] = {}
    """Of a new LLM, in place of nano's."""

    @model_validator(mode="after")
    def _only_new_ones_change(self) -> LlmRecipe:
        if self.sizes and self.name != NEW_LLM:
            raise ValueError(f"sizes are for a new LLM, '{NEW_LLM}'; a pretrained one has its own")
        return self


class VerifierRecipe(Strict):
    """The verifier to train.

    `block` is a VHS's l*, 0-based, or several blocks, in order, whose mean it reads; `connector` is one of LLaVA's
    mm_projector_type.

    `clip` is the vision tower of mllm-clip, a folder or hub id; `precompute` encodes all features once
    and keeps them in memory, which pays off if they are small. `dtype` is that of the checkpoint's weights.
    """

    kind: Literal["vhs", "mllm-clip", "mllm-ae"]
    """vhs, mllm-clip or mllm-ae."""
    block: Block | None = None
    """The DiT's block that a vhs reads, or several, whose mean it reads."""
    llm: LlmRecipe = LlmRecipe()
    """The language model."""
    connector: Literal["mlp2x_gelu", "linear"] = "mlp2x_gelu"
    """What turns features into the LLM's tokens."""
    template: str = PAPER_TEMPLATE
    """The question, with <image> and {prompt}."""
    clip: Annotated[str | None, Local(other=HUB_ID)] = None
    """The CLIP of an mllm-clip, a hub id."""
    precompute: bool = False
    """Run CLIP once over the images, before training."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Of the LLM's weights."""

    @field_validator("block", mode="plain")
    @classmethod
    def _a_block(cls, value: Any) -> Block | None:
        return read_block(value)

    @model_validator(mode="after")
    def _consistent(self) -> VerifierRecipe:
        if (self.kind == "vhs") != (self.block is not None):
            raise ValueError(
                "a vhs needs its block (l*, 0-based)"
                if self.kind == "vhs"
                else "only a vhs reads a block; leave it out"
            )
        if "<image>" not in self.template or "{prompt}" not in self.template.split("<image>", 1)[1]:
            raise ValueError("a template has <image> and, after it, {prompt}")
        return self


class OptimizerRecipe(Strict):
    """AdamW, or Muon for the hidden matrices with AdamW for all else (`adamw_learning_rate`).

    `warm_up` is the share of the steps in which the rate rises linearly; then a cosine to 0.
    """

    name: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon for matrices with adamw for the rest."""
    learning_rate: Rate = 1e-3
    """Its peak, followed by a cosine."""
    adamw_learning_rate: Rate | None = None
    """Of what muon leaves to adamw."""
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    """Of the weights that decay."""
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.03
    """Share of the steps."""
    clip_grad: Rate = 1.0
    """The gradient's largest norm."""


class LossRecipe(Strict):
    """Cross entropy of the answer token, or the focal loss of eq. 4.

    `weights` of "no" and "yes": "auto" gives each class the other's share of the labels, as A.3 does.
    """

    name: Literal["cross_entropy", "focal"] = "cross_entropy"
    """cross_entropy or focal."""
    weights: Literal["auto"] | tuple[Rate, Rate] = "auto"
    """Of no and yes; auto gives each class the other's share of the labels."""
    gamma: Annotated[float, Field(ge=0, le=1000)] = 2.0  # of the focal loss
    """Of the focal loss."""

    @property
    def focus(self) -> float:
        """The exponent of (1 - p_t): 0 is cross entropy."""
        return self.gamma if self.name == "focal" else 0.0


class StageRecipe(Strict):
    """A stage: `batch` samples per optimiser step over all processes, `epochs` over the data or `steps` in all."""

    batch: Amount
    """Samples per optimiser step, over all processes."""
    epochs: Epochs = 1.0
    """Over the data."""
    steps: Amount | None = None
    """In all, in place of epochs."""
    optimizer: OptimizerRecipe = OptimizerRecipe()
    """How weights are updated."""

    def steps_for(self, samples: int) -> int:
        """Return the optimiser steps for `samples` samples."""
        return self.steps or max(1, round(self.epochs * samples / self.batch))


class AlignRecipe(StageRecipe):
    """Stage 1, captioning: the paper trains the connector alone; an untrained LLM learns to speak here ("all")."""

    batch: Amount = 512
    """Samples per optimiser step, over all processes."""
    train: Literal["connector", "all"] = "connector"
    """connector (the paper's), or all, for a new LLM."""
    template: str = CAPTION_TEMPLATE
    """The question that the caption answers."""


class FinetuneRecipe(StageRecipe):
    """Stage 2, yes or no: connector and LLM; validated every `validate_every` steps (None: every epoch)."""

    batch: Amount = 64
    """Samples per optimiser step, over all processes."""
    epochs: Epochs = 10.0
    """Over the data."""
    optimizer: OptimizerRecipe = OptimizerRecipe(learning_rate=2e-5)
    """How weights are updated."""
    loss: LossRecipe = LossRecipe()
    """Of yes and no."""
    validate_every: Amount | None = None
    """Optimiser steps; by default an epoch."""


class EngineRecipe(Strict):
    """Where and how the stages run. Nothing here changes what is learnt, except for rounding.

    `processes` run on this machine (1: only this process; for several machines use `accelerate
    launch` or torchrun). `micro_batch` is the most samples that a process holds at once: the gradients of several
    are summed to the stage's batch. `sharding` "fsdp" spreads weights and optimiser over GPUs.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    """cpu or cuda."""
    processes: Threads = 1
    """On this machine."""
    threads: Threads | None = None  # CPU threads a process
    """CPU threads a process."""
    sharding: Literal["none", "fsdp"] = "none"
    """fsdp spreads weights over processes."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Of the computation."""
    micro_batch: Amount = 64
    """The most samples that a process holds at once."""
    gradient_checkpointing: bool = False
    """Less memory for more time."""
    workers: Annotated[int, Field(ge=0, le=MOST_THREADS, strict=True)] = (
        0  # processes that read features ahead
    )
    """Processes that read data."""
    verify_data: bool = True  # every file's SHA-256 before training
    """Check every file's SHA-256 before training."""
    save_every: Amount = 100  # optimiser steps
    """Optimiser steps."""
    log_every: Amount = 10  # optimiser steps
    """Optimiser steps."""

    @model_validator(mode="after")
    def _possible(self) -> EngineRecipe:
        if self.save_every % self.log_every:
            raise ValueError(f"save_every must be a multiple of log_every ({self.log_every})")
        if self.sharding == "fsdp" and self.device != "cuda":
            raise ValueError("sharding: fsdp needs device: cuda")
        return self


class Recipe(Strict):
    """All that a verifier's training depends on, except its data. `align: null` skips stage 1."""

    seed: TrainSeed = 0
    """Of order and new weights."""
    verifier: VerifierRecipe
    """What is trained."""
    align: AlignRecipe | None = AlignRecipe()
    """Stage 1; null skips it."""
    finetune: FinetuneRecipe = FinetuneRecipe()
    """Stage 2."""
    engine: EngineRecipe = EngineRecipe()
    """What it runs on."""

    @model_validator(mode="after")
    def _possible(self) -> Recipe:
        stages = [s for s in (self.align, self.finetune) if s is not None]
        if self.engine.sharding == "fsdp" and any(s.optimizer.name == "muon" for s in stages):
            raise ValueError("muon works on whole matrices: choose adamw with sharding: fsdp")
        for stage in stages:
            if stage.batch % self.engine.processes:
                raise ValueError(
                    f"a batch of {stage.batch} does not divide over {self.engine.processes} processes"
                )
        return self
