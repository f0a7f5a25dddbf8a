"""FLOPs, parameters and bytes of a call, from the operators it runs; on `meta` without memory or weights.

The formulas are those of torch.utils.flop_counter.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten

# An operator of such a name, or of no namespace of torch's own, computes more than a pass over its elements.
_COMPUTES = re.compile(
    r"mm|conv|attention|matmul|einsum|linear|(^|_)dot|fft|lstm|gru|rnn|cdist|solve|linalg|transformer"
)
_ATTENTION = aten.scaled_dot_product_attention.default
_NAMESPACES = ("aten", "prim", "prims", "profiler")
_READS = (aten.item.default, aten.is_nonzero.default, aten._local_scalar_dense.default)
_LOOK_UPS = (aten.embedding,)  # reads a few rows of a weight


@dataclass
class Cost:
    """What calls compute.

    FLOPs are 2 per multiply-add; bytes are of the weights that operators read, and of the inputs and outputs of
    every counted operator.
    """

    tflop: float = 0.0
    weights: dict[int, int] = field(default_factory=dict)  # by storage, the elements of every parameter used
    weight_bytes: int = 0
    activation_bytes: int = 0
    uncounted: Counter[str] = field(default_factory=Counter)  # operators that compute but have no formula
    ignored: Counter[str] = field(default_factory=Counter)  # elementwise work, norms, copies, look-ups

    @property
    def parameters(self) -> int:
        return sum(self.weights.values())

    @property
    def moved_gb(self) -> float:
        return (self.weight_bytes + self.activation_bytes) / 1e9

    def less(self, other: Cost) -> Cost:
        """Return what is left of this cost without a part of it."""
        own = {k: v for k, v in self.weights.items() if k not in other.weights}
        return replace(self.plus(other, -1), weights=own)

    def plus(self, other: Cost, times: int = 1) -> Cost:
        """Return the sum of this cost and `times` the other."""
        return Cost(
            self.tflop + times * other.tflop,
            self.weights | other.weights,
            self.weight_bytes + times * other.weight_bytes,
            self.activation_bytes + times * other.activation_bytes,
            _added(self.uncounted, other.uncounted, times),
            _added(self.ignored, other.ignored, times),
        )


def _added(ours: Counter[str], others: Counter[str], times: int) -> Counter[str]:
    return +Counter({k: ours[k] + times * others[k] for k in {*ours, *others}})


def count(call: Callable[[], object]) -> Cost:
    """Count the cost of one call: matrix products, convolutions, and attention as its two matrix products."""
    tally = _Tally()
    with torch.inference_mode(), _no_fused_transformer(), without_values(), tally:
        call()
    return tally.cost


@contextmanager
def _no_fused_transformer() -> Iterator[None]:
    """Run nn.MultiheadAttention in its parts, not as one operator for which the counter has no formula."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def without_values() -> Iterator[None]:
    """Let a stage on `meta` end quietly at its copy to the CPU, since tensors there have shapes but no values.

    Inside a layer such a copy would cut the stage short, and raises. On other devices this has no effect.
    """
    try:
        yield
    except (NotImplementedError, RuntimeError, TypeError) as error:
        if not re.search(r"meta (tensor|device)", str(error)) or _in_a_layer(error):
            raise


def _in_a_layer(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_name == "forward" and isinstance(frame.f_locals.get("self"), torch.nn.Module):
            return True
        trace = trace.tb_next
    return False


def _attention(query: Any, key: Any, value: Any, *_: Any, out_val: Any = None, **__: Any) -> int:
    """Count FLOPs of tensors [..., heads, queries, width].

    A mask or causality saves nothing; grouped heads count in full.
    """
    *rows, width = query.shape
    return int(2 * math.prod(rows) * key.shape[-2] * (width + value.shape[-1]))


class _Tally(TorchDispatchMode):
    """Sums torch's formulas over the operators, and notes weights, bytes and what has no formula."""

    def __init__(self) -> None:
        super().__init__()
        self.cost = Cost()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _READS and args[0].device.type == "meta":
            # what code branches on: a mask is full, a sequence unpacked
            return torch.ones((), dtype=args[0].dtype).item()
        packet = func._overloadpacket
        formula = _attention if func is _ATTENTION else flop_registry.get(packet)
        if formula is None:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if formula is not None:
            self.cost.tflop += formula(*args, **kwargs, out_val=result) / 1e12
        self._note(func, packet, formula is not None, args, kwargs, result)
        return result

    def _note(self, func: Any, packet: Any, counted: bool, args: Any, kwargs: Any, result: Any) -> None:
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        for weight in tensors:
            if isinstance(weight, torch.nn.Parameter):
                self.cost.weights[_storage(weight)] = weight.numel()
        output = sum(_bytes(t) for t in tree_leaves(result) if isinstance(t, torch.Tensor))
        if counted:
            read = sum(_bytes(t) for t in tensors if _storage(t) in self.cost.weights)
            self.cost.weight_bytes += read
            self.cost.activation_bytes += sum(map(_bytes, tensors)) - read + output
            return
        if packet in _LOOK_UPS:
            self.cost.weight_bytes += output
        name = func.name()
        namespace, _, operator = name.partition("::")
        computes = namespace not in _NAMESPACES or _COMPUTES.search(operator)
        (self.cost.uncounted if computes else self.cost.ignored)[name] += 1


def _storage(tensor: torch.Tensor) -> int:
    """Return what a weight shares with all views of it, such as its transpose; on `meta` too."""
    return tensor.untyped_storage()._cdata


def _bytes(tensor: torch.Tensor) -> int:
    """Count the bytes of the elements that are there: one repeated along an axis (stride 0) is read once."""
    sizes = (n for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or not n)
    return math.prod(sizes) * tensor.element_size()
