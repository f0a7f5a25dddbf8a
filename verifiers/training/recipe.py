"""The recipe of a training: the two stages' amounts, rates and losses, and the engine they run on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from vhsbench.generators.protocol import Block, read_block
from vhsbench.harness.common.limits import LARGEST_TRAINING_SEED, MOST_THREADS
from vhsbench.harness.common.settings import HUB_ID, Amount, Local, Strict, Threads
from vhsbench.verifiers.mllm import PAPER_TEMPLATE

CAPTION_TEMPLATE = "<image> describe the image"
Rate = Annotated[float, Field(gt=0)]
Epochs = Annotated[float, Field(gt=0, le=1e6)]
TrainSeed = Annotated[int, Field(ge=0, le=LARGEST_TRAINING_SEED, strict=True)]
Size = Annotated[int, Field(ge=1, le=65_536, strict=True)]  # of a new model


class LlmRecipe(Strict):
    """The LLM that a verifier starts from.

    `name`: a hub id (owner/name) or folder of a Qwen2 with its tokenizer, or "nano": a new one with nano's
    words and sizes. `sizes` changes those sizes, in Qwen2Config's names (only for nano).
    """

    short = "name"

    name: Annotated[str, Local(names="nano", other=HUB_ID)] = "Qwen/Qwen2.5-0.5B-Instruct"
    revision: str | None = None
    sizes: dict[str, Size] = {}

    @model_validator(mode="after")
    def _only_new_ones_change(self) -> LlmRecipe:
        if self.sizes and self.name != "nano":
            raise ValueError("sizes are for a new LLM, 'nano'; a pretrained one has its own")
        return self


class VerifierRecipe(Strict):
    """The verifier to train.

    `block` is a VHS's l*, 0-based, or several blocks, in order, whose mean it reads; `connector` is one of LLaVA's
    mm_projector_type.

    `clip` is the vision tower of mllm-clip, a folder or hub id; `precompute` encodes all features once
    and keeps them in memory, which pays off if they are small. `dtype` is that of the checkpoint's weights.
    """

    kind: Literal["vhs", "mllm-clip", "mllm-ae"]
    block: Block | None = None
    llm: LlmRecipe = LlmRecipe()
    connector: Literal["mlp2x_gelu", "linear"] = "mlp2x_gelu"
    template: str = PAPER_TEMPLATE
    clip: Annotated[str | None, Local(other=HUB_ID)] = None
    precompute: bool = False
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"

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
    learning_rate: Rate = 1e-3
    adamw_learning_rate: Rate | None = None
    weight_decay: Annotated[float, Field(ge=0, le=1e6)] = 0.0
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.03
    clip_grad: Rate = 1.0


class LossRecipe(Strict):
    """Cross entropy of the answer token, or the focal loss of eq. 4.

    `weights` of "no" and "yes": "auto" gives each class the other's share of the labels, as A.3 does.
    """

    name: Literal["cross_entropy", "focal"] = "cross_entropy"
    weights: Literal["auto"] | tuple[Rate, Rate] = "auto"
    gamma: Annotated[float, Field(ge=0, le=1000)] = 2.0  # of the focal loss

    @property
    def focus(self) -> float:
        """The exponent of (1 - p_t): 0 is cross entropy."""
        return self.gamma if self.name == "focal" else 0.0


class StageRecipe(Strict):
    """A stage: `batch` samples per optimiser step over all processes, `epochs` over the data or `steps` in all."""

    batch: Amount
    epochs: Epochs = 1.0
    steps: Amount | None = None
    optimizer: OptimizerRecipe = OptimizerRecipe()

    def steps_for(self, samples: int) -> int:
        """Return the optimiser steps for `samples` samples."""
        return self.steps or max(1, round(self.epochs * samples / self.batch))


class AlignRecipe(StageRecipe):
    """Stage 1, captioning: the paper trains the connector alone; a new LLM learns to speak here ("all")."""

    batch: Amount = 512
    train: Literal["connector", "all"] = "connector"
    template: str = CAPTION_TEMPLATE


class FinetuneRecipe(StageRecipe):
    """Stage 2, yes or no: connector and LLM; validated every `validate_every` steps (None: every epoch)."""

    batch: Amount = 64
    epochs: Epochs = 10.0
    optimizer: OptimizerRecipe = OptimizerRecipe(learning_rate=2e-5)
    loss: LossRecipe = LossRecipe()
    validate_every: Amount | None = None


class EngineRecipe(Strict):
    """Where and how the stages run. Nothing here changes what is learnt, except for rounding.

    `processes` run on this machine (1: only this process; for several machines use `accelerate
    launch` or torchrun). `micro_batch` is the most samples that a process holds at once: the gradients of several
    are summed to the stage's batch. `sharding` "fsdp" spreads weights and optimiser over GPUs.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    processes: Threads = 1
    threads: Threads | None = None  # CPU threads a process
    sharding: Literal["none", "fsdp"] = "none"
    precision: Literal["bf16", "fp32"] = "bf16"
    micro_batch: Amount = 64
    gradient_checkpointing: bool = False
    workers: Annotated[int, Field(ge=0, le=MOST_THREADS, strict=True)] = (
        0  # processes that read features ahead
    )
    verify_data: bool = True  # every file's SHA-256 before training
    save_every: Amount = 100  # optimiser steps
    log_every: Amount = 10  # optimiser steps

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
    verifier: VerifierRecipe
    align: AlignRecipe | None = AlignRecipe()
    finetune: FinetuneRecipe = FinetuneRecipe()
    engine: EngineRecipe = EngineRecipe()

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
