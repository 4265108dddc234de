"""What may be wrong with an exported graph although it computes the right numbers."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import onnx as onnx_library

onnx: Any = onnx_library  # its types are only partly known
FLOAT, HALF, INT64 = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.INT64,
)
_SCALING = frozenset({"Mul", "Div", "Add"})
_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Mod", "Pow", "MatMul", "Gemm"})
_SHAPE_SOURCES = frozenset({"Shape", "Size", "Constant", "ConstantOfShape"})


def operators(model: Any) -> Mapping[str, int]:
    """How often each operator is used."""
    return Counter(node.op_type for node in model.graph.node)


def broken_attention(model: Any) -> list[str]:
    """Softmaxes that do not stand between two matrix products, with nothing but a scale between.

    Whatever else stands there, most often a cast, keeps compilers from fusing the attention.
    """
    made_by = {name: node for node in model.graph.node for name in node.output}
    used_by: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            used_by.setdefault(name, []).append(node)
    broken: list[str] = []
    for node in model.graph.node:
        if node.op_type != "Softmax":
            continue
        before = made_by.get(node.input[0])
        while before is not None and before.op_type in _SCALING:
            before = next((made_by[name] for name in before.input if name in made_by), None)
        after = used_by.get(node.output[0], [])
        if before is None or before.op_type != "MatMul" or {n.op_type for n in after} != {"MatMul"}:
            broken.append(node.name)
    return broken


def integer_arithmetic(model: Any) -> list[str]:
    """Arithmetic on 64-bit integers that are data; that on shapes is folded away by compilers."""
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {value.name: value.type.tensor_type.elem_type for value in _values(inferred)}
    shapes = {tensor.name for tensor in model.graph.initializer}
    found: list[str] = []
    for node in model.graph.node:
        if node.op_type in _SHAPE_SOURCES or shapes.issuperset(n for n in node.input if n):
            shapes.update(node.output)
        elif node.op_type in _ARITHMETIC and types.get(node.output[0]) == INT64:
            found.append(node.name)
    return found


def half_and_full(model: Any) -> Mapping[str, int]:
    """How many casts there are to float32 and to float16."""
    targets = Counter(
        attribute.i
        for node in model.graph.node
        if node.op_type == "Cast"
        for attribute in node.attribute
        if attribute.name == "to"
    )
    return {"float32": targets[FLOAT], "float16": targets[HALF]}


def _values(model: Any) -> Iterator[Any]:
    yield from model.graph.value_info
    yield from model.graph.input
    yield from model.graph.output
