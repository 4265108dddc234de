"""What a graph keeps alive while it runs: one run on torch's meta device, which holds no values."""

import weakref
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from engines.graphs import HEIGHT, ROWS, WIDTH, Axis, Graph

Picture = tuple[int, int]  # width, height in pixels, multiples of 64
_FUSED_WIDTH: Final = 256  # widest head that fused attention takes


@dataclass(frozen=True, slots=True)
class Flow:
    """Bytes of one row of a graph at one picture size."""

    inputs: int
    outputs: int
    working: int  # most that is alive at a time beside weights and inputs

    @property
    def bytes(self) -> int:
        """All that a row takes while the graph runs."""
        return self.inputs + self.working


@dataclass(frozen=True, slots=True)
class Trace:
    """A run of a graph: what it takes, and the weights that it reads."""

    flow: Flow
    weights: list[Tensor]
    layer: int  # most values of the weights that are one layer's own


def traced(
    graph: Graph, pictures: set[Picture], factor: int, dtype: torch.dtype
) -> dict[Picture, Trace]:
    """One run of a graph at each size on the meta device; one for all where no size matters."""
    ports = (*graph.inputs, *graph.outputs)
    sizeless = not any(
        isinstance(axis, Axis) and axis.name in (HEIGHT, WIDTH)
        for port in ports
        for axis in port.axes
    )
    module, traces = graph.module.to(dtype), dict[Picture, Trace]()
    for picture in sorted(pictures):
        if sizeless and traces:
            traces[picture] = next(iter(traces.values()))
            continue
        sizes = {ROWS: 1, WIDTH: picture[0] // factor, HEIGHT: picture[1] // factor}
        given = [
            torch.empty(port.shape(sizes), dtype=port.dtype or dtype, device="meta")
            for port in graph.inputs
        ]
        weights = [*module.parameters(), *module.buffers()]
        with torch.inference_mode(), _Live(weights, given) as live, _Fused(), torch.device("meta"):
            outputs = module(*given)
        flow = Flow(_bytes(given), _bytes(outputs), live.most)
        read = [weight for weight in weights if _storage(weight) in live.read]
        traces[picture] = Trace(flow, read, _largest_layer(module, live.read))
    return traces


def _bytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _largest_layer(module: nn.Module, read: set[int]) -> int:
    return max(
        sum(own.numel() for own in layer.parameters(recurse=False) if _storage(own) in read)
        for layer in module.modules()
    )


def _storage(tensor: Tensor) -> int:
    storage: Any = tensor.untyped_storage()
    return storage._cdata


class _Fused(TorchFunctionMode):
    """Attention that keeps no scores where heads are narrow enough; its shapes alone."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not nn.functional.scaled_dot_product_attention or len(args) < 3:
            return func(*args, **(kwargs or {}))
        query, key, value = args[:3]
        if query.shape[-1] > _FUSED_WIDTH:
            query.new_empty((*query.shape[:-1], key.shape[-2])).softmax(dim=-1)
        return query.new_empty((*query.shape[:-1], value.shape[-1]))


class _Live(TorchDispatchMode):
    """Watches which of the weights are read, and how many bytes are alive that were not given."""

    def __init__(self, weights: list[Tensor], given: list[Tensor]) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]  (partly typed)
        self._theirs = {_storage(tensor) for tensor in (*weights, *given)}
        self._alive: dict[int, int] = {}
        self.read: set[int] = set()
        self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        leaves = pytree.tree_leaves((args, kwargs))
        self.read.update(_storage(leaf) for leaf in leaves if isinstance(leaf, Tensor))
        made = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(made):
            key = _storage(leaf) if isinstance(leaf, Tensor) else 0
            if key and key not in self._theirs and key not in self._alive:
                storage = leaf.untyped_storage()
                self._alive[key] = storage.nbytes()
                weakref.finalize(storage, self._alive.pop, key)
        self.most = max(self.most, sum(self._alive.values()))
        return made
