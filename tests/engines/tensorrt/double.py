"""TensorRT as far as the runtime uses it, on the processor: engines that compute what torch does.

An engine cannot be opened without a GPU. This one reads its inputs from the addresses that it was
given, runs the graph's module, and writes to the addresses of its outputs, as the real one does.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from types import SimpleNamespace

import torch
from torch import Tensor

from engines.graphs import Graph
from engines.tensorrt.runtime import Loaded, Sizes

STREAM = 7
USER_MANAGED = object()
WORKING_BYTES = 1000


def at(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor that lies there."""
    raw = (ctypes.c_char * (prod(shape) * dtype.itemsize)).from_address(address)
    return torch.frombuffer(raw, dtype=dtype).view(shape)


@dataclass
class Context:
    """One execution context."""

    engine: "Engine"
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    memory: int = 0
    runs: int = 0

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self.engine.device_memory_size_v2
        self.memory = memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return shape[0] <= self.engine.rows

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def infer_shapes(self) -> list[str]:
        inputs = {port.name for port in self.engine.graph.inputs} - self.engine.unused
        return sorted(inputs - self.shapes.keys())

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == STREAM
        assert self.memory, "working memory was not given"
        self.runs += 1
        graph, dtype = self.engine.graph, self.engine.dtype
        values = [
            at(self.addresses[port.name], self.shapes[port.name], port.dtype or dtype)
            for port in graph.inputs
        ]
        with torch.inference_mode():
            for port, value in zip(graph.outputs, graph.module(*values), strict=True):
                at(self.addresses[port.name], tuple(value.shape), dtype).copy_(value)
        return self.engine.works


@dataclass
class Engine:
    """An engine that takes at most so many rows; `unused` inputs were optimised away."""

    graph: Graph
    dtype: torch.dtype = torch.float32
    rows: int = 8
    unused: frozenset[str] = frozenset()
    works: bool = True
    contexts: list[Context] = field(default_factory=list)
    device_memory_size_v2: int = WORKING_BYTES

    @property
    def names(self) -> list[str]:
        ports = (*self.graph.inputs, *self.graph.outputs)
        return [port.name for port in ports if port.name not in self.unused]

    @property
    def num_io_tensors(self) -> int:
        return len(self.names)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def create_execution_context(self, strategy: object) -> Context:
        assert strategy is USER_MANAGED
        self.contexts.append(Context(self))
        return self.contexts[-1]

    def loaded(self) -> Loaded:
        return Loaded(self.graph, self, runtime=None)


TRT = SimpleNamespace(ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED=USER_MANAGED))


@dataclass
class Processor:
    """An `engines.tensorrt.runtime.Device` with so much memory; it counts what it recorded."""

    free: int = 10**9
    place: torch.device = field(default_factory=lambda: torch.device("cpu"))
    recordings: int = 0

    def stream(self) -> int:
        return STREAM

    def free_bytes(self) -> int:
        return self.free

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        self.recordings += 1
        work()
        return work


def most(side: int, rows: int = 8) -> Sizes:
    return {"rows": rows, "height": side, "width": side}
