"""ONNX files against torch, by a second library; and files that are not what the table says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from engines.errors import EngineError
from engines.export import Float32Norm, check, export
from engines.graph_checks import half_and_full
from engines.graphs import ROWS, STEP_GRAPHS, Axis, Graph, Port, all_graphs
from engines.restorer import Restorer
from engines.verify.compiled import TOLERANCES, apart, on_onnxruntime

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def off(graph: Graph, path: Path, dtype: torch.dtype) -> float:
    """The worst relative L2 distance from torch of any output at any size."""
    relative, _ = apart(graph, on_onnxruntime(path), graph.precision(dtype))
    return relative


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_graph_computes_the_same_at_several_sizes(
    either: Restorer, tmp_path: Path, dtype: torch.dtype
) -> None:
    for name, graph in all_graphs(either.networks, either.previewer).items():
        path = tmp_path / f"{name}.onnx"
        export(graph, path, dtype)
        assert off(graph, path, dtype) < TOLERANCES[dtype], name


def test_a_step_graph_in_half_precision_is_half_but_for_its_norms(
    nano_like: Restorer, tmp_path: Path
) -> None:
    graph = all_graphs(nano_like.networks, nano_like.previewer)["aggregator"]
    path = tmp_path / "model.onnx"
    export(graph, path, torch.float16)
    norms = sum(isinstance(m, nn.GroupNorm | nn.LayerNorm) for m in graph.module.modules())
    casts = half_and_full(onnx.load(str(path)))
    assert casts["float32"] == norms
    assert next(graph.module.parameters()).dtype is torch.float32  # the original is as it was
    assert off(graph, path, torch.float16) < TOLERANCES[torch.float16]


class Affine(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        return (self.linear(x),)


def affine(width: int = 4) -> Graph:
    port = (Axis(ROWS), width)
    return Graph("affine", Affine(width), (Port("x", port),), (Port("y", port),))


def test_large_weights_lie_in_one_file_beside_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write: Any = torch.onnx.export

    def as_if_large(*args: Any, **kwargs: Any) -> None:
        write(*args, **kwargs)
        path = Path(args[2])
        onnx.save_model(
            onnx.load(str(path)),
            str(path),
            save_as_external_data=True,
            all_tensors_to_one_file=False,
            size_threshold=0,
        )

    monkeypatch.setattr(torch.onnx, "export", as_if_large)
    graph = affine(32)
    export(graph, tmp_path / "model.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert off(graph, tmp_path / "model.onnx", torch.float32) < TOLERANCES[torch.float32]


def test_a_file_that_is_not_what_the_table_says_is_refused(tmp_path: Path) -> None:
    graph, path = affine(), tmp_path / "model.onnx"
    export(graph, path)
    check(graph, path, torch.float32)
    for changed, message in (
        (replace(graph, inputs=(Port("z", (Axis(ROWS), 4)),)), "input 'z' of affine is missing"),
        (replace(graph, outputs=()), "unexpected outputs y"),
        (
            replace(graph, inputs=(Port("x", (Axis(ROWS), 4), torch.int64),)),
            "input 'x' is FLOAT",
        ),
    ):
        with pytest.raises(EngineError, match=message):
            check(changed, path, torch.float32)
    with pytest.raises(EngineError, match="input 'x' is FLOAT"):
        check(graph, path, torch.float16)


def test_a_norm_in_half_precision_sums_up_in_float32() -> None:
    x = torch.full((1, 2, 64, 64), 60.0, dtype=torch.float16)
    x[:, :, ::2] = -60.0
    norm = Float32Norm(nn.GroupNorm(1, 2).half())
    assert norm(x).dtype is torch.float16
    torch.testing.assert_close(norm(x), x.sign(), rtol=1e-3, atol=1e-3)


def test_step_graphs_are_part_of_the_table(nano_like: Restorer) -> None:
    assert set(STEP_GRAPHS) <= set(all_graphs(nano_like.networks, nano_like.previewer))
