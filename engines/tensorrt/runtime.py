"""Built TensorRT engines at work: bound buffers, one pool of working memory, recorded launches.

Every engine of a step serves all sizes up to its largest, so its weights are in memory once. What
belongs to one size (context, bound views, recorded launch) is a `Launch`, made when the size is
first seen. All launches share their working memory and, by name, their buffers: engines run one
after the other on one stream, and the aggregator's outputs lie where the main network reads them.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from engines.errors import EngineError
from engines.graphs import Graph, Port

_GB: Final = 1e9
_ALIGNED: Final = 256  # bytes, as TensorRT wants its working memory
_KEPT: Final = 24  # launches: eight sizes of three graphs

Sizes = Mapping[str, int]


class Device(Protocol):
    """Where engines run."""

    @property
    def place(self) -> torch.device:
        """The device of all tensors."""
        ...

    def stream(self) -> int:
        """Handle of the stream that work is put on now."""
        ...

    def free_bytes(self) -> int:
        """What can still be allocated."""
        ...

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """Run `work` once, and return what repeats it at the least cost for the host."""
        ...


class Cuda:
    """A CUDA device; launches are recorded as CUDA graphs."""

    def __init__(self, place: torch.device) -> None:
        self.place = place

    def stream(self) -> int:
        """See `Device`."""
        return torch.cuda.current_stream(self.place).cuda_stream

    def free_bytes(self) -> int:
        """See `Device`; what torch holds for nothing is free."""
        free, _ = torch.cuda.mem_get_info(self.place)
        held = torch.cuda.memory_reserved(self.place) - torch.cuda.memory_allocated(self.place)
        return free + held

    def recorded(self, work: Callable[[], None]) -> Callable[[], None]:
        """See `Device`. The first run is not recorded, as TensorRT prepares itself in it."""
        side, current = torch.cuda.Stream(self.place), torch.cuda.current_stream(self.place)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            work()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.place), torch.cuda.graph(graph):
            work()
        return graph.replay


@dataclass(frozen=True, slots=True)
class Loaded:
    """An engine in the device's memory, and the graph that it was built from."""

    graph: Graph
    engine: Any  # ICudaEngine
    runtime: Any  # that it came from, which must live as long

    @property
    def working_bytes(self) -> int:
        """What a run needs at the largest sizes."""
        return int(self.engine.device_memory_size_v2)

    @property
    def names(self) -> set[str]:
        """Inputs and outputs that were not optimised away."""
        return {self.engine.get_tensor_name(i) for i in range(self.engine.num_io_tensors)}


class Launch:
    """One engine at one size. `inputs` and `outputs` are bound: fill the one, run, read the other.

    Raises EngineError where the engine does not take the sizes.
    """

    def __init__(
        self, loaded: Loaded, sizes: Sizes, buffers: "Buffers", trt: Any, device: Device
    ) -> None:
        graph, names = loaded.graph, loaded.names
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._context: Any = loaded.engine.create_execution_context(strategy)
        if self._context is None:
            raise EngineError(f"{graph.name}: the engine gave no execution context")
        self._device = device
        self._name = graph.name
        pool = buffers.pool
        self._context.set_device_memory(pool.data_ptr(), pool.numel())
        self.inputs = tuple(buffers.view(port, sizes) for port in graph.inputs)
        self.outputs = tuple(buffers.view(port, sizes) for port in graph.outputs)
        for port, tensor in zip(graph.inputs, self.inputs, strict=True):
            if port.name in names and not self._context.set_input_shape(
                port.name, tuple(tensor.shape)
            ):
                shape = "x".join(map(str, tensor.shape))
                raise EngineError(f"{graph.name}: {port.name} of {shape} is not what it is for")
        bound = zip((*graph.inputs, *graph.outputs), (*self.inputs, *self.outputs), strict=True)
        for port, tensor in bound:
            if port.name in names:
                self._context.set_tensor_address(port.name, tensor.data_ptr())
        if missing := self._context.infer_shapes():
            raise EngineError(f"{graph.name}: no shape for {', '.join(missing)}")
        self._run: Callable[[], None] | None = None

    def run(self) -> None:
        """Compute the outputs from the inputs, on the current stream; the host does not wait."""
        if self._run is None:
            self._run = self._device.recorded(self._enqueue)
        self._run()

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._device.stream()):
            raise EngineError(f"{self._name}: TensorRT refused to run it")


class Buffers:
    """Memory that all launches share: one tensor for each name, as large as it can become."""

    def __init__(
        self, engines: Sequence[Loaded], most: Sizes, dtype: torch.dtype, device: Device
    ) -> None:
        self._flat = {
            port.name: torch.empty(
                prod(port.shape(most)), dtype=port.dtype or dtype, device=device.place
            )
            for port in _ports(engines)
        }
        room = _pool_bytes(engines)
        self.pool = torch.empty(room, dtype=torch.uint8, device=device.place)

    @staticmethod
    def needed(engines: Sequence[Loaded], most: Sizes, dtype: torch.dtype) -> int:
        """Bytes of the buffers of these engines."""
        shapes = ((prod(port.shape(most)), port.dtype or dtype) for port in _ports(engines))
        return sum(count * kind.itemsize for count, kind in shapes) + _pool_bytes(engines)

    def view(self, port: Port, sizes: Sizes) -> Tensor:
        """The port's tensor at these sizes."""
        shape = port.shape(sizes)
        return self._flat[port.name][: prod(shape)].view(shape)


def _ports(engines: Sequence[Loaded]) -> list[Port]:
    """Inputs and outputs of all engines, one for each name."""
    ports = (port for own in engines for port in (*own.graph.inputs, *own.graph.outputs))
    return list({port.name: port for port in ports}.values())


def _pool_bytes(engines: Sequence[Loaded]) -> int:
    """Working memory for any one of the engines."""
    return -(-max(own.working_bytes for own in engines) // _ALIGNED) * _ALIGNED


class Runtime:
    """Engines by name, at any size up to `most`; `run` is a function of tensors.

    Raises EngineError where buffers do not fit into the device's memory.
    """

    def __init__(
        self,
        engines: Mapping[str, Loaded],
        most: Sizes,
        dtype: torch.dtype,
        trt: Any,
        device: Device,
    ) -> None:
        self.most = most
        self._engines = engines
        self._trt = trt
        self._device = device
        loaded = list(engines.values())
        guard(Buffers.needed(loaded, most, dtype), device, "buffers of the engines")
        self._buffers = Buffers(loaded, most, dtype, device)
        self._launches: OrderedDict[tuple[str, tuple[int, ...]], Launch] = OrderedDict()

    def run(self, name: str, inputs: Sequence[Tensor], sizes: Sizes) -> list[Tensor]:
        """Outputs of a graph, in memory of their own. Raises EngineError for too large sizes."""
        over = [
            f"{key} {sizes[key]} (at most {self.most[key]})"
            for key in sizes
            if sizes[key] > self.most[key]
        ]
        if over:
            raise EngineError(f"{name}: the engine is not made for {', '.join(over)}")
        launch = self._launch(name, sizes)
        for bound, given in zip(launch.inputs, inputs, strict=True):
            bound.copy_(given)
        launch.run()
        return [tensor.clone() for tensor in launch.outputs]

    def _launch(self, name: str, sizes: Sizes) -> Launch:
        key = name, tuple(sizes.values())
        launch = self._launches.pop(key, None)
        if launch is None:
            launch = Launch(self._engines[name], sizes, self._buffers, self._trt, self._device)
        self._launches[key] = launch
        while len(self._launches) > _KEPT:
            self._launches.popitem(last=False)
        return launch


def load(
    plan: bytes, graph: Graph, weight_bytes: int, trt: Any, device: Device, log: Any
) -> Loaded:
    """Bring a built engine into the device's memory.

    Raises EngineError where it does not fit, or TensorRT does not take it.
    """
    guard(weight_bytes, device, f"weights of {graph.name}")
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        said = "; ".join(log.errors) or "no reason given"
        raise EngineError(f"{graph.name}: the engine cannot be loaded: {said}")
    return Loaded(graph, engine, runtime)


def guard(needed: int, device: Device, what: str) -> None:
    """Refuse before memory runs out, while nothing is lost. Raises EngineError."""
    free = device.free_bytes()
    if needed > free:
        raise EngineError(
            f"{what} need {needed / _GB:.2f} GB, {free / _GB:.2f} GB of the device are free; "
            "`instantir engines plan` says what fits"
        )
