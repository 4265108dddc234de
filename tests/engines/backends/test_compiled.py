from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from engines.backends.compiled import GraphBackend
from engines.graphs import Graph, step_graphs
from engines.models.adapter import Hoisted, Memory
from engines.restorer import Restorer


class ByTorch(GraphBackend):
    """Runs the modules of the table."""

    def run(self, name: str, inputs: Sequence[Tensor]) -> list[Tensor]:
        return list(self._table[name].module(*inputs))


def hoisted(rest: Sequence[Tensor]) -> Hoisted:
    modulation, *flat = rest
    return Hoisted(tuple(map(Memory, flat[::2], flat[1::2])), modulation)


def table(restorer: Restorer) -> dict[str, Graph]:
    return step_graphs(restorer.networks, restorer.previewer)


@torch.inference_mode()
def test_without_residuals_the_main_network_computes_the_same(either: Restorer) -> None:
    graphs = table(either)
    sample, emb, *rest = graphs["previewer"].example(2, 32, 32, torch.float32)
    ours = ByTorch(graphs, "torch").predict(sample, emb, hoisted(rest), None)
    expected = either.networks.denoiser.step(sample, emb, hoisted(rest))
    torch.testing.assert_close(ours, expected)


@torch.inference_mode()
def test_each_network_gets_its_inputs_in_the_order_of_its_graph(either: Restorer) -> None:
    graphs, denoiser = table(either), either.networks.denoiser
    backend = ByTorch(graphs, "torch")
    sample, emb, *rest = graphs["previewer"].example(2, 32, 32, torch.float32)
    residuals = backend.aggregate(sample, sample.flip(0), emb)
    expected = either.networks.aggregator(sample, sample.flip(0), emb)
    assert all(map(torch.equal, residuals, expected))
    assert torch.equal(
        backend.preview(sample, emb, hoisted(rest)),
        either.previewer.step(sample, emb, hoisted(rest)),
    )
    assert torch.equal(
        backend.predict(sample, emb, hoisted(rest), residuals),
        denoiser.step(sample, emb, hoisted(rest), residuals),
    )
