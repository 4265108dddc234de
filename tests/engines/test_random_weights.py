from __future__ import annotations

import pytest
import torch
from torch import nn

from engines.graphs import STEP_GRAPHS
from engines.random_weights import fill, published_step_graphs
from engines.verify.compiled import WIDE

SMALL = {**WIDE, "block_out_channels": [32, 64], "attention_head_dim": [1, 1]}


def test_every_parameter_is_filled_in_the_precision_that_is_asked_for() -> None:
    with torch.device("meta"):
        network = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Linear(64, 64))
    fill(network, torch.Generator().manual_seed(1), torch.float16)
    first, norm, last = network
    assert {p.dtype for p in network.parameters()} == {torch.float16}
    assert not any(p.is_meta or p.requires_grad for p in network.parameters())
    assert not torch.equal(first.get_parameter("weight"), last.get_parameter("weight"))
    assert abs(float(norm.get_parameter("weight").float().mean()) - 1) < 0.1
    assert abs(float(first.get_parameter("weight").float().std()) - 64**-0.5) < 0.02


def test_step_graphs_of_a_described_size_run() -> None:
    table = published_step_graphs(SMALL)
    assert list(table) == list(STEP_GRAPHS)
    for graph in table.values():
        with torch.inference_mode():
            outputs = graph.module(*graph.example(1, 32, 32, torch.float32))
        assert all(bool(torch.isfinite(value).all()) for value in outputs)


@pytest.mark.slow
def test_equal_seeds_give_equal_networks() -> None:
    one, same, other = (
        next(published_step_graphs(SMALL, seed=seed)["unet"].module.parameters())
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
