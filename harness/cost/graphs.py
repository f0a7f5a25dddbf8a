"""A function of tensors as CUDA graphs: one launch replays all its kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._pytree import tree_flatten, tree_map_only

from vhsbench.harness.common.errors import VhsbenchError
from vhsbench.harness.cost.memory import is_out_of_memory

_WARM_UPS = 2  # libraries choose kernels and workspaces on first calls, which a graph must not hold


class CaptureError(VhsbenchError):
    """A model does something that no CUDA graph can: it looks at a value, or copies from the host."""


class Graphed:
    """Calls of `function` by a CUDA graph for every shape of its arguments, captured at the first.

    Whatever is no tensor is part of the shape. Results are copies: the next replay writes over the graph's own.
    With `most_rows`, calls whose first tensor has more rows are made as they are. Raises CaptureError; what the function
    itself raises, and no memory left, come as they are.
    """

    def __init__(self, function: Callable[..., Any], most_rows: int | None = None) -> None:
        self._function, self._most_rows = function, most_rows
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, list[torch.Tensor], Any]] = {}
        self._pool: Any = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        leaves, spec = tree_flatten((args, kwargs))
        tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
        if self._most_rows is not None and len(tensors[0]) > self._most_rows:
            return self._function(*args, **kwargs)
        key = str(spec), *((x.shape, x.dtype) if isinstance(x, torch.Tensor) else x for x in leaves)
        if key not in self._graphs:
            self._graphs[key] = self._capture(args, kwargs)
        graph, inputs, outputs = self._graphs[key]
        for own, given in zip(inputs, tensors, strict=True):
            own.copy_(given)
        graph.replay()
        return tree_map_only(torch.Tensor, torch.clone, outputs)

    def _capture(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor], Any]:
        args, kwargs = tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                self._function(*args, **kwargs)
        torch.cuda.current_stream().wait_stream(side)
        graph, current = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                outputs = self._function(*args, **kwargs)
        except BaseException as error:
            _leave_failed(current)
            # the function ran before, outside a graph
            if isinstance(error, RuntimeError) and not is_out_of_memory(error):
                why = " ".join(str(error).split())
                raise CaptureError(
                    f"no CUDA graph can be made of this model ({why}); it runs without one."
                ) from error
            raise
        self._pool = self._pool or graph.pool()
        inputs = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        return graph, inputs, outputs


def _leave_failed(stream: torch.cuda.Stream) -> None:
    """Undo what torch leaves of a capture that failed: its stream, and random numbers that wait for its end."""
    torch.cuda.set_stream(stream)
    generator = torch.cuda.default_generators[stream.device_index]
    generator.graphsafe_set_state(generator.clone_state())  # a copy does not capture
