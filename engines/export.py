"""Graphs to ONNX files: strongly typed, checked, weights in one file beside the graph.

The scripted exporter with opset 17 is used on purpose: what it writes builds and keeps attention
fusable (docs/engines.md says what else was tried).
"""

import copy
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx as onnx_library
import torch
from torch import Tensor, nn

from engines.errors import EngineError
from engines.graph_checks import broken_attention, integer_arithmetic
from engines.graphs import HEIGHT, ROWS, WIDTH, Axis, Graph

onnx: Any = onnx_library  # its types are only partly known
OPSET = 17
# Small, as tracing computes on the processor, where half precision may be 300 times slower. Two
# rows, and sides that differ: an axis of length 1, or two equal ones, might be taken for fixed.
EXAMPLE = {ROWS: 2, HEIGHT: 8, WIDTH: 16}
_ONNX = {
    torch.float32: onnx.TensorProto.FLOAT,
    torch.float16: onnx.TensorProto.FLOAT16,
    torch.int64: onnx.TensorProto.INT64,
}


def export(graph: Graph, path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a graph as `path`, with its weights in `path`.data where they are large.

    float16 makes the graph itself half precision, where the table allows it; its norms still sum
    up in float32. Raises EngineError where what was written is not what the table says.
    """
    dtype = graph.precision(dtype)
    given = graph.example(EXAMPLE[ROWS], EXAMPLE[HEIGHT], EXAMPLE[WIDTH], dtype)
    with warnings.catch_warnings(), torch.no_grad(), _typed(graph.module, dtype) as module:
        # Traced sizes that are asserted, and the exporter's own advice to use another one.
        warnings.simplefilter("ignore")
        write: Any = vars(torch.onnx)["export"]  # its types are only partly known
        write(
            module,
            given,
            str(path),
            input_names=[port.name for port in graph.inputs],
            output_names=[port.name for port in graph.outputs],
            dynamic_axes=_dynamic_axes(graph),
            opset_version=OPSET,
            dynamo=False,
        )
    _gather_weights(path)
    check(graph, path, dtype)


def check(graph: Graph, path: Path, dtype: torch.dtype) -> None:
    """Whether a file holds what the table says of a graph. Raises EngineError."""
    dtype = graph.precision(dtype)
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(str(path), load_external_data=False)
    for kind, ports, found in (
        ("input", graph.inputs, model.graph.input),
        ("output", graph.outputs, model.graph.output),
    ):
        told = {value.name: value.type.tensor_type for value in found}
        for port in ports:
            if port.name not in told:
                raise EngineError(f"{path.name}: {kind} {port.name!r} of {graph.name} is missing")
            wanted, given = _ONNX[port.dtype or dtype], told[port.name].elem_type
            if wanted != given:
                name = onnx.TensorProto.DataType.Name(given)
                raise EngineError(f"{path.name}: {kind} {port.name!r} is {name}, not {dtype}")
        if extra := sorted(set(told) - {port.name for port in ports}):
            raise EngineError(f"{path.name}: unexpected {kind}s {', '.join(extra)}")
    faults = [("attention that compilers would not fuse", broken_attention(model))]
    if not any(port.dtype is torch.int64 for port in graph.inputs):
        faults.append(("arithmetic on 64-bit integers", integer_arithmetic(model)))
    for fault, names in faults:
        if names:
            raise EngineError(f"{path.name}: {len(names)} times {fault}: {', '.join(names[:3])}")


class Float32Norm(nn.Module):
    """A norm within a half-precision network that computes in float32 (sums overflow in half)."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm.float()

    def forward(self, x: Tensor) -> Tensor:
        """The norm of x, in the type of x."""
        return self.norm(x.float()).to(x.dtype)


@contextmanager
def _typed(module: nn.Module, dtype: torch.dtype) -> Generator[nn.Module]:
    """A copy of the module in this precision, or the module itself where it is so already.

    A large one is not copied; what was changed of it is as before after the block.
    """
    module = module.eval()
    if any(parameter.dtype is not dtype for parameter in module.parameters()):
        module = copy.deepcopy(module).to(dtype)
    wrapped: list[tuple[nn.Module, str, nn.Module]] = []
    if dtype is torch.float16:
        wrapped = [
            (parent, name, child)
            for parent in module.modules()
            for name, child in parent.named_children()
            if isinstance(child, nn.GroupNorm | nn.LayerNorm)
        ]
    for parent, name, norm in wrapped:
        setattr(parent, name, Float32Norm(norm))
    try:
        yield module
    finally:
        for parent, name, norm in wrapped:
            setattr(parent, name, norm.to(dtype))


def _dynamic_axes(graph: Graph) -> dict[str, dict[int, str]]:
    return {
        port.name: {i: str(axis) for i, axis in enumerate(port.axes) if isinstance(axis, Axis)}
        for port in (*graph.inputs, *graph.outputs)
    }


def _gather_weights(path: Path) -> None:
    """The scripted exporter writes a large model's weights as hundreds of files: make them one."""
    tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    scattered = {e.value for t in tensors for e in t.external_data if e.key == "location"}
    if not scattered:
        return
    whole = onnx.load(str(path))
    for name in (*scattered, path.name):
        (path.parent / name).unlink()
    onnx.save_model(whole, str(path), save_as_external_data=True, location=f"{path.name}.data")
