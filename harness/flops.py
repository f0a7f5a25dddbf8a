"""FLOPs, parameters and bytes of a call, from the operators it runs; on `meta` without memory or weights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from harness.stages import without_values

aten = torch.ops.aten

# An operator of such a name, or of no namespace of torch's own, computes more than a pass over its elements.
_COMPUTES = re.compile(r"mm|conv|attention|matmul|einsum|linear|(^|_)dot|fft|lstm|gru|rnn|cdist|solve|linalg|transformer")
_ATTENTION = aten.scaled_dot_product_attention.default
_NAMESPACES = ("aten", "prim", "prims", "profiler")
_LOOK_UPS = (aten.embedding, aten.index, aten.index_select)  # they read a few rows of a weight


@dataclass
class Cost:
    """What a call computes. FLOPs are 2 per multiply-add; bytes are of each weight once, and of the
    inputs and outputs of every counted operator."""

    tflop: float = 0.0
    weights: dict[int, tuple[int, int]] = field(default_factory=dict)  # id -> (elements, bytes read)
    activation_bytes: int = 0
    uncounted: Counter[str] = field(default_factory=Counter)  # operators that compute but have no formula
    ignored: Counter[str] = field(default_factory=Counter)  # elementwise work, norms, copies, look-ups

    @property
    def parameters(self) -> int:
        return sum(elements for elements, _ in self.weights.values())

    @property
    def weight_bytes(self) -> int:
        return sum(size for _, size in self.weights.values())


def count(call: Callable[[], object]) -> Cost:
    """The cost of one call: matrix products, convolutions, and attention as its two matrix products."""
    tally = _Tally()
    # named as packet and as overload: the first has the formula, the second keeps it from decomposing
    attention = {aten.scaled_dot_product_attention: _attention, _ATTENTION: _attention}
    counter = FlopCounterMode(display=False, custom_mapping=attention)
    with torch.inference_mode(), _no_fused_transformer(), without_values(), counter, tally:
        call()
    tally.cost.tflop = counter.get_total_flops() / 1e12
    return tally.cost


@contextmanager
def _no_fused_transformer() -> Iterator[None]:
    """nn.MultiheadAttention in its parts, not as one operator for which the counter has no formula."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _attention(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Of shapes [..., heads, queries, width]; a mask or causality saves nothing; grouped heads count in full."""
    *batch, queries, width = query
    rows = queries
    for size in batch:
        rows *= size
    return int(2 * rows * key[-2] * (width + value[-1]))


class _Tally(TorchDispatchMode):
    """Notes weights, bytes and operators without a formula, as they pass to the counter."""

    def __init__(self) -> None:
        super().__init__()
        self.cost = Cost()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func._overloadpacket
        counted = packet in flop_registry or func is _ATTENTION
        if not counted:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        self._note(func, packet, counted, args, kwargs, result)
        return result

    def _note(self, func: Any, packet: Any, counted: bool, args: Any, kwargs: Any, result: Any) -> None:
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        output = sum(_bytes(t) for t in tree_leaves(result) if isinstance(t, torch.Tensor))
        weights = [t for t in tensors if isinstance(t, torch.nn.Parameter)]
        for weight in weights:
            read = output if packet in _LOOK_UPS else _bytes(weight)
            known = self.cost.weights.get(id(weight), (0, 0))[1]
            self.cost.weights[id(weight)] = weight.numel(), max(read, known)
        if counted:
            inputs = sum(_bytes(t) for t in tensors if not isinstance(t, torch.nn.Parameter))
            self.cost.activation_bytes += inputs + output
            return
        name = func.name()
        namespace, _, operator = name.partition("::")
        computes = namespace not in _NAMESPACES or _COMPUTES.search(operator)
        (self.cost.uncounted if computes else self.cost.ignored)[name] += 1


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
