"""The training loop of both stages, with accelerate: one process, DDP or FSDP; it resumes from its last state."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from vhsbench.generators.training import Progress, attention, cosine, muon_and_adamw
from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.verifiers.metrics import yes_no_metrics
from vhsbench.verifiers.mllm import Mllm
from vhsbench.verifiers.training.log import Log
from vhsbench.verifiers.training.losses import focal_losses
from vhsbench.verifiers.training.objectives import Reader, YesNo
from vhsbench.verifiers.training.recipe import EngineRecipe, OptimizerRecipe
from vhsbench.verifiers.training.samples import Order, Rows, feature_batches, share
from vhsbench.verifiers.training.stage import Stage, ask
from vhsbench.verifiers.training.state import States
from vhsbench.verifiers.training.validation import validate

Report = Callable[[Progress], None]
Weights = dict[str, torch.Tensor]


class TrainingError(VhsbenchError):
    """A training that cannot continue; the message is one sentence for a user."""


@dataclass
class Point:
    """The position of a stage, saved in its state."""

    step: int = 0
    seconds: float = 0.0
    best: float = math.inf
    best_step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)  # of the best validation


class Engine:
    """Runs stages under one Accelerator; states and statistics are in `out`."""

    def __init__(self, recipe: EngineRecipe, out: Path, report: Report = lambda _: None) -> None:
        self.recipe, self.out, self.report = recipe, out, report
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        self.accelerator = _accelerator(recipe)
        self.states = States(out, self.accelerator)

    @property
    def device(self) -> torch.device:
        return torch.device(self.accelerator.device)

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def fit(self, mllm: Mllm, stage: Stage) -> tuple[Weights, Point]:
        """Train the parameters of `mllm` that require gradients; return the last weights, or the best validation's.

        Weights are whole, on the CPU, under `mllm`'s names; with FSDP only the main process has them.
        """
        return _Run(self, mllm, stage).loop()


class _Run:
    """One call of Engine.fit."""

    def __init__(self, engine: Engine, mllm: Mllm, stage: Stage) -> None:
        self.engine, self.stage, self.recipe = engine, stage, engine.recipe
        self.accelerator = engine.accelerator
        processes, batch = self.accelerator.num_processes, stage.recipe.batch
        if batch % processes:
            raise TrainingError(
                f"stage '{stage.name}': its batch of {batch} does not divide over {processes} processes."
            )
        self.steps = stage.recipe.steps_for(len(stage.samples))
        self.order = Order(len(stage.samples), batch, stage.seed)
        self.micro_batches = math.ceil(batch // processes / self.recipe.micro_batch)
        if self.recipe.gradient_checkpointing:
            llm: Any = mllm.llm
            llm.gradient_checkpointing_enable({"use_reentrant": False})
        optimizers = _optimizers(mllm, stage.recipe.optimizer)
        self.model, *self.optimizers = self.accelerator.prepare(Reader(mllm), *optimizers)
        self.rates = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self.point = Point(**engine.states.load(stage.name))
        self.shown = math.nan  # the loss last logged: reading it at every step would wait for the device
        self.window: list[torch.Tensor] = []
        self.seen: list[torch.Tensor] = []

    def loop(self) -> tuple[Weights, Point]:
        first = self.point.step
        log = Log(self.engine.out, self.stage.name, first) if self.engine.is_main else None
        features = feature_batches(
            self.stage.samples, self._indices, first * self.micro_batches, self.steps * self.micro_batches,
            self.recipe.workers, self.engine.device.type == "cuda",
        )  # fmt: skip
        started, before = time.monotonic(), self.point.seconds
        self.model.train()
        for step in range(first, self.steps):
            self._step(step, features)
            self.point.step, self.point.seconds = step + 1, before + time.monotonic() - started
            last = step + 1 == self.steps
            if (step + 1) % self.recipe.log_every == 0 or last:
                self._log(log, self.point.seconds)
            if self.stage.validation is not None and ((step + 1) % self.stage.validate_every == 0 or last):
                self._validate(log)
            if (step + 1) % self.recipe.save_every == 0 and not last:
                self.engine.states.save(self.stage.name, asdict(self.point))
            self.engine.report(
                Progress(self.stage.name, step + 1, self.steps, self.shown, self.point.seconds)
            )
        if log:
            log.close()
        weights = self._weights()
        self.accelerator.free_memory(self.model, *self.optimizers)
        return weights, self.point

    def _indices(self, micro_batch: int) -> list[int]:
        step, k = divmod(micro_batch, self.micro_batches)
        return self._mine(step)[k]

    def _mine(self, step: int) -> list[list[int]]:
        a = self.accelerator
        return share(self.order.batch(step), a.process_index, a.num_processes, self.recipe.micro_batch)

    def _step(self, step: int, features: Iterator[torch.Tensor]) -> None:
        """Take one optimiser step; `window` keeps this process's part of the batch's loss, on the device."""
        factor = cosine(step / self.steps, self.stage.recipe.optimizer.warm_up)
        for optimizer, base in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * factor
        rows = self.stage.samples.rows
        total = self.stage.objective.weight([rows[i] for i in self.order.batch(step)])
        parts = self._mine(step)
        loss = torch.zeros((), device=self.engine.device)
        for k, part in enumerate(parts):
            more = k + 1 < len(parts)
            with self.accelerator.no_sync(self.model) if more else nullcontext():
                loss += self._backward([rows[i] for i in part], next(features), total)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.stage.recipe.optimizer.clip_grad)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.window.append(loss)

    def _backward(self, rows: Rows, features: torch.Tensor, total: float) -> torch.Tensor:
        with attention(self.engine.device):
            logits, texts = ask(self.model, self.stage, rows, features, self.engine.device)
            losses = focal_losses(logits, texts.target, self.stage.objective.gamma)
            part = (texts.weight * losses).sum() / total
            # DDP and FSDP average over processes, but the losses must be summed
            self.accelerator.backward(part * self.accelerator.num_processes)
        if isinstance(self.stage.objective, YesNo):
            says = self.stage.objective.probabilities(logits.detach())
            right = torch.tensor([[float(r["correct"])] for r in rows], device=says.device)
            self.seen.append(torch.cat([says, right], 1))
        return part.detach()

    def _log(self, log: Log | None, seconds: float) -> None:
        loss = self.accelerator.reduce(torch.stack(self.window).mean(), "sum").item()
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of stage '{self.stage.name}' is {loss} at step {self.point.step}: "
                "lower its learning rate."
            )
        self.shown = loss
        values = {"loss": loss}
        if self.seen:
            p_yes, p_no, right = self.accelerator.gather(torch.cat(self.seen)).cpu().numpy().T
            values |= yes_no_metrics(p_yes, p_no, right)
        self.window, self.seen = [], []
        values["learning_rate"] = self.optimizers[0].param_groups[0]["lr"]
        values["samples_per_s"] = self.point.step * self.stage.recipe.batch / seconds
        if log:
            log.write(self.point.step, "train", values)

    def _validate(self, log: Log | None) -> None:
        self.model.eval()
        values = validate(self.model, self.stage, self.accelerator, self.recipe.micro_batch)
        self.model.train()
        if log:
            log.write(self.point.step, "validation", values)
        if values["loss"] < self.point.best:
            self.point.best, self.point.best_step, self.point.metrics = (
                values["loss"],
                self.point.step,
                values,
            )
            self.engine.states.keep_best(self.stage.name, self._state_dict())

    def _state_dict(self) -> Weights:
        state: Weights = self.accelerator.get_state_dict(self.model)
        return {k.removeprefix("mllm."): v for k, v in state.items()}

    def _weights(self) -> Weights:
        if self.point.best_step:
            return self.engine.states.best(self.stage.name)
        return {k: v.detach().cpu().clone() for k, v in self._state_dict().items()}


def _optimizers(mllm: Mllm, recipe: OptimizerRecipe) -> list[torch.optim.Optimizer]:
    if recipe.name == "muon":
        other = recipe.adamw_learning_rate or recipe.learning_rate
        return muon_and_adamw([mllm], recipe.learning_rate, other)
    trained = [p for p in mllm.parameters() if p.requires_grad]
    return [torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)]


def _accelerator(recipe: EngineRecipe) -> Any:
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState

    # another training of this process may have had another precision
    AcceleratorState._reset_state()
    # the first process alone hashes shards and takes their statistics, while the others wait
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=24))
    accelerator = Accelerator(
        cpu=recipe.device == "cpu",
        mixed_precision="no" if recipe.precision == "fp32" else "bf16",
        fsdp_plugin=_fsdp() if recipe.sharding == "fsdp" else None,
        kwargs_handlers=[patience],
    )
    if recipe.sharding == "fsdp" and not accelerator.is_fsdp2:
        raise TrainingError("sharding: fsdp spreads over processes, and this is one: give engine.processes.")
    return accelerator


def _fsdp() -> Any:
    from accelerate import FullyShardedDataParallelPlugin

    return FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Qwen2DecoderLayer"],
        state_dict_type="SHARDED_STATE_DICT",
        cpu_ram_efficient_loading=False,
    )
