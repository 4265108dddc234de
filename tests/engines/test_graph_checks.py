"""Faults of small graphs that compute the right numbers all the same."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import TensorProto
from onnx import helper as onnx_helper

from engines.graph_checks import broken_attention, half_and_full, integer_arithmetic, operators

helper: Any = onnx_helper  # its types are only partly known
FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


def graph(nodes: list[Any], kind: int = FLOAT, out: int = FLOAT) -> onnx.ModelProto:
    value = helper.make_tensor_value_info
    inputs = [value(name, kind, [2, "n"]) for name in ("a", "b")]
    made = helper.make_graph(nodes, "g", inputs, [value("out", out, None)])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)])


def attention(*between: str) -> list[Any]:
    """Query times key, then `between`, softmax, times value."""
    nodes = [helper.make_node("MatMul", ["a", "b"], ["t0"], name="scores")]
    for index, kind in enumerate(between):
        extra = {"to": HALF} if kind == "Cast" else {}
        given = [f"t{index}"] if kind == "Cast" else [f"t{index}", "a"]
        nodes.append(helper.make_node(kind, given, [f"t{index + 1}"], **extra))
    nodes.append(helper.make_node("Softmax", [f"t{len(between)}"], ["p"], name="softmax"))
    nodes.append(helper.make_node("MatMul", ["p", "b"], ["out"], name="values"))
    return nodes


@pytest.mark.parametrize(
    ("between", "broken"), [((), []), (("Mul",), []), (("Cast",), ["softmax"])]
)
def test_only_a_scale_may_stand_between_scores_and_softmax(
    between: tuple[str, ...], broken: list[str]
) -> None:
    assert broken_attention(graph(attention(*between))) == broken


def test_weights_that_are_used_elsewhere_are_no_attention_to_fuse() -> None:
    nodes = attention()
    nodes[-1] = helper.make_node("Mul", ["p", "p"], ["out"])
    assert broken_attention(graph(nodes)) == ["softmax"]


def test_integers_that_are_data_are_told_from_those_of_shapes() -> None:
    data = [helper.make_node("Add", ["a", "b"], ["out"], name="sum")]
    assert integer_arithmetic(graph(data, INT64, INT64)) == ["sum"]
    assert integer_arithmetic(graph(data)) == []
    shapes = [
        helper.make_node("Shape", ["a"], ["s"]),
        helper.make_node("Add", ["s", "s"], ["out"], name="sum"),
    ]
    assert integer_arithmetic(graph(shapes, FLOAT, INT64)) == []


def test_casts_and_operators_are_counted() -> None:
    made = graph(attention("Cast", "Cast"))
    assert half_and_full(made) == {"float32": 0, "float16": 2}
    assert operators(made) == {"MatMul": 2, "Cast": 2, "Softmax": 1}
