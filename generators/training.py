"""A small training loop that survives a kill: seeded by step, checkpointed, resumed."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from vhsbench.harness.common import torch_files
from vhsbench.harness.common.files import ending

Loss = Callable[[int], torch.Tensor]
Schedule = Callable[[float], float]


@dataclass(frozen=True)
class Progress:
    """What a step reports; the loss is averaged over the last steps."""

    name: str
    step: int
    steps: int
    loss: float
    seconds: float


def trapezoid(progress: float, warm_up: float = 0.03, decay: float = 0.4) -> float:
    """Rise to 1, stay, and fall linearly to 0; progress in 0..1."""
    return min(1.0, (progress + 1e-3) / warm_up, (1.0 - progress) / decay)


def cosine(progress: float, warm_up: float = 0.03) -> float:
    """Follow the paper's schedule (A.3): 3% linear warm-up, then a cosine to 0."""
    if progress < warm_up:
        return (progress + 1e-3) / warm_up
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warm_up) / (1.0 - warm_up)))


def muon_and_adamw(
    modules: Iterable[nn.Module], muon_lr: float = 2e-3, adamw_lr: float = 1e-3
) -> list[torch.optim.Optimizer]:
    """Use Muon for the hidden matrices of at least 32x32, and AdamW for all else."""
    # names may repeat between modules
    parameters = [(n, p) for m in modules for n, p in m.named_parameters() if p.requires_grad]
    outer = ("embed", "proj_out", "scale_shift_table", "norm", "lm_head", "logit_scale")
    hidden, rest = list[nn.Parameter](), list[nn.Parameter]()
    for name, p in parameters:
        inner = p.ndim == 2 and min(p.shape) >= 32 and not any(part in name for part in outer)
        (hidden if inner else rest).append(p)
    return [
        StackedMuon(hidden, lr=muon_lr, weight_decay=0.0, adjust_lr_fn="original"),
        torch.optim.AdamW(rest, lr=adamw_lr, weight_decay=0.0),
    ]


class StackedMuon(torch.optim.Muon):
    """Muon that updates all matrices of one shape together: a small model's steps wait for the kernels being launched."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the parameters that have gradients; `closure` is not supported."""
        for group in self.param_groups:
            parameters: list[torch.Tensor] = []
            grads: list[torch.Tensor] = []
            momenta: list[torch.Tensor] = []
            self._init_group(group, parameters, grads, momenta)
            if not parameters:
                continue
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
            ahead = torch._foreach_lerp(grads, momenta, group["momentum"]) if group["nesterov"] else momenta
            for shape in dict.fromkeys(p.shape for p in parameters):
                places = [i for i, p in enumerate(parameters) if p.shape == shape]
                updates = _orthogonal(torch.stack([ahead[i] for i in places]), group)
                rate = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
                torch._foreach_add_([parameters[i] for i in places], list(updates), alpha=-rate)


def _orthogonal(matrices: torch.Tensor, group: dict[str, Any]) -> torch.Tensor:
    """Bring the singular values of matrices [B, R, C] near 1 by Newton and Schulz's iteration, in bfloat16."""
    a, b, c = group["ns_coefficients"]
    tall = matrices.shape[1] > matrices.shape[2]
    found = (matrices.mT if tall else matrices).bfloat16()
    found = found / found.norm(dim=(1, 2), keepdim=True).clamp(min=group["eps"])
    for _ in range(group["ns_steps"]):
        gram = found @ found.mT
        found = torch.baddbmm(found, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), found, beta=a)
    return found.mT if tall else found


class Average:
    """An exponential moving average of the parameters; `apply` replaces them by it."""

    def __init__(self, modules: Iterable[nn.Module], decay: float) -> None:
        self._parameters = [p for m in modules for p in m.parameters() if p.requires_grad]
        self._decay = decay
        self.values = [p.detach().clone() for p in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [p.detach() for p in self._parameters], 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        for parameter, value in zip(self._parameters, self.values, strict=True):
            parameter.copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the parameters by their averages within this context."""
        kept = [p.detach().clone() for p in self._parameters]
        self.apply()
        yield
        with torch.no_grad():
            for parameter, value in zip(self._parameters, kept, strict=True):
                parameter.copy_(value)


@dataclass(frozen=True)
class Until:
    """Ends a training early: asks `enough` after step `first` and then every `every` steps."""

    enough: Callable[[], bool]
    first: int
    every: int

    def reached(self, step: int, modules: Sequence[nn.Module], average: Average | None) -> bool:
        """Ask, if it is time, with the averaged parameters in place and the modules in evaluation mode."""
        if step < self.first or (step - self.first) % self.every:
            return False
        for module in modules:
            module.eval()
        with average.applied() if average else nullcontext():
            answer = self.enough()
        for module in modules:
            module.train()
        return answer


def fit(
    name: str,
    modules: list[nn.Module],
    loss: Loss,
    optimizers: list[torch.optim.Optimizer],
    steps: int,
    state_file: Path,
    *,
    schedule: Schedule = cosine,
    ema: float | None = None,
    clip_grad: float = 1.0,
    report: Callable[[Progress], None] = lambda _: None,
    save_every_s: float = 60.0,
    until: Until | None = None,
) -> float:
    """Minimise loss(step) for `steps` steps, or until `until`; return the seconds spent.

    `loss` must derive its data from the step's number alone, so that a killed run continues from
    `state_file` with the data that it would have seen. The state is written every `save_every_s`.
    """
    average = Average(modules, ema) if ema else None
    rates = [[g["lr"] for g in o.param_groups] for o in optimizers]
    first, spent = _restore(state_file, modules, optimizers, average)
    started = saved = time.monotonic()
    running: float | None = None
    for module in modules:
        module.train()
    for step in range(first, steps):
        factor = schedule(step / steps)
        for optimizer, base in zip(optimizers, rates, strict=True):
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * factor
        with attention(device_of(modules[0])):
            value = loss(step)
            value.backward()
        for module in modules:
            nn.utils.clip_grad_norm_(module.parameters(), clip_grad)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if average:
            average.update(step)
        running = value.item() if running is None else 0.98 * running + 0.02 * value.item()
        report(Progress(name, step + 1, steps, running, spent + time.monotonic() - started))
        # before saving: a training killed while it asks will ask again
        if until and until.reached(step + 1, modules, average):
            break
        now = time.monotonic()
        if now - saved > save_every_s:
            _save(state_file, modules, optimizers, average, step + 1, spent + now - started)
            saved = now
    if average:
        average.apply()
    for module in modules:
        module.eval()
    state_file.unlink(missing_ok=True)
    return spent + time.monotonic() - started


def device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def attention(device: torch.device) -> AbstractContextManager[object]:
    """Compute attention on the CPU as plain matrix products: its fused kernel is slow backwards."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _save(
    file: Path,
    modules: list[nn.Module],
    optimizers: list[torch.optim.Optimizer],
    average: Average | None,
    step: int,
    seconds: float,
) -> None:
    state: dict[str, Any] = {
        "modules": [m.state_dict() for m in modules],
        "optimizers": [o.state_dict() for o in optimizers],
        "average": average.values if average else None,
        "step": step,
        "seconds": seconds,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = ending(file, ".tmp")
    torch.save(state, temporary)
    os.replace(temporary, file)


def _restore(
    file: Path,
    modules: list[nn.Module],
    optimizers: list[torch.optim.Optimizer],
    average: Average | None,
) -> tuple[int, float]:
    if not file.exists():
        return 0, 0.0
    state = torch_files.read(file, device_of(modules[0]))
    for module, values in zip(modules, state["modules"], strict=True):
        module.load_state_dict(values)
    for optimizer, values in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(values)
    if average:
        average.values = state["average"]
    return int(state["step"]), float(state["seconds"])
