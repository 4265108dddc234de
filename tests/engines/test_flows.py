"""What is alive while a graph runs: tensors on the meta device against ones counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engines.flows import Flow, Trace, traced
from engines.graphs import HEIGHT, ROWS, WIDTH, Axis, Graph, Port


def flow_of(module: nn.Module, width: int = 8, side: int = 16) -> Flow:
    """Of a module over (1, width, side, side) in float32."""
    axes = (Axis(ROWS), width, Axis(HEIGHT), Axis(WIDTH))
    graph = Graph("toy", module, (Port("x", axes),), (Port("y", axes),))
    return trace(graph, side).flow


def trace(graph: Graph, side: int = 16) -> Trace:
    picture = (side, side)
    return traced(graph, {picture}, 1, torch.float32)[picture]


class Widened(nn.Module):
    """Keeps its input's copy, and makes two tensors four times as wide, one after the other."""

    def forward(self, x: Tensor) -> Tensor:
        kept = x * 2
        wide = torch.cat([x, x, x, x], dim=1)
        wide = wide + 1
        return kept + wide[:, : x.shape[1]]


def test_the_most_that_is_alive_is_what_a_network_cannot_do_without() -> None:
    flow = flow_of(Widened())
    one = 4 * 8 * 16 * 16
    assert flow.inputs == flow.outputs == one
    assert flow.working == one + 2 * 4 * one


def test_views_and_changes_in_place_take_no_memory() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + 1).relu_().flatten(1).view_as(x).mul_(2)

    assert flow_of(InPlace()).working == 4 * 8 * 16 * 16


@pytest.mark.parametrize(("width", "scores"), [(256, 0), (512, 2)])
def test_only_heads_too_wide_for_fused_attention_keep_scores(width: int, scores: int) -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            tokens = x.flatten(2).transpose(1, 2)[:, None]
            out = F.scaled_dot_product_attention(tokens, tokens, tokens)
            return out[:, 0].transpose(1, 2).reshape(x.shape)

    flow, tokens = flow_of(Attention(), width, side=32), 32 * 32
    assert flow.working == (scores * 4 * tokens**2 or flow.outputs)


def test_weights_that_nothing_reads_are_not_counted() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 8), nn.Linear(4, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    graph = Graph("toy", Two(), (Port("x", (Axis(ROWS), 4)),), (Port("y", (Axis(ROWS), 8)),))
    with torch.device("meta"):
        graph.module.to_empty(device="meta")
    assert [tuple(weight.shape) for weight in trace(graph).weights] == [(8, 4), (8,)]


def test_the_largest_layer_is_what_one_module_owns_of_what_is_read() -> None:
    class Three(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Linear(4, 100)
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x)

    graph = Graph("toy", Three(), (Port("x", (Axis(ROWS), 4)),), (Port("y", (Axis(ROWS), 3)),))
    graph.module.to_empty(device="meta")
    assert trace(graph).layer == 4 * 8 + 8
