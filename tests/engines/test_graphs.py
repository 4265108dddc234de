"""The table: every graph computes what its network computes, in the shapes it states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engines.errors import EngineError
from engines.graphs import HEIGHT, ROWS, STEP_GRAPHS, WIDTH, Axis, Graph, Port, all_graphs
from engines.models.adapter import Hoisted, Memory
from engines.restorer import Restorer

SIZES = ({ROWS: 1, HEIGHT: 32, WIDTH: 32}, {ROWS: 3, HEIGHT: 32, WIDTH: 64})


def table(restorer: Restorer) -> dict[str, Graph]:
    return all_graphs(restorer.networks, restorer.previewer)


def outputs(graph: Graph, sizes: dict[str, int]) -> tuple[Tensor, ...]:
    given = graph.example(sizes[ROWS], sizes[HEIGHT], sizes[WIDTH], torch.float32)
    with torch.inference_mode():
        return graph.module(*given)


def test_the_table_holds_every_network(either: Restorer) -> None:
    assert set(table(either)) == {
        *STEP_GRAPHS,
        *("unet_embed", "previewer_embed", "aggregator_embed"),
        *("unet_conditioning", "previewer_conditioning"),
        *("encode", "decode", "vision", "text"),
    }


@pytest.mark.parametrize("sizes", SIZES)
def test_inputs_and_outputs_have_the_shapes_that_are_stated(
    either: Restorer, sizes: dict[str, int]
) -> None:
    for graph in table(either).values():
        given = graph.example(sizes[ROWS], sizes[HEIGHT], sizes[WIDTH], torch.float32)
        assert [tuple(v.shape) for v in given] == [port.shape(sizes) for port in graph.inputs]
        found = [tuple(value.shape) for value in outputs(graph, sizes)]
        assert found == [port.shape(sizes) for port in graph.outputs], graph.name


def test_a_step_graph_says_what_the_network_says(either: Restorer) -> None:
    graph = table(either)["unet"]
    sample, emb, modulation, *rest = graph.example(2, 32, 32, torch.float32)
    count = sum("memory" in port.name for port in graph.inputs)
    memory = tuple(map(Memory, rest[:count:2], rest[1:count:2]))
    with torch.inference_mode():
        (ours,) = graph.module(sample, emb, modulation, *rest)
        hoisted = Hoisted(memory, modulation)
        theirs = either.networks.denoiser.step(sample, emb, hoisted, rest[count:])
    assert torch.equal(ours, theirs)


def test_what_is_hoisted_fits_into_the_step(either: Restorer) -> None:
    graphs = table(either)
    denoiser, sizes = either.networks.denoiser, {ROWS: 2, HEIGHT: 32, WIDTH: 32}
    features, text = graphs["unet_conditioning"].example(2, 32, 32, torch.float32)
    times, pooled, ids = graphs["unet_embed"].example(2, 32, 32, torch.float32)
    sample = graphs["unet"].example(2, 32, 32, torch.float32)[0]
    residuals = outputs(graphs["aggregator"], sizes)
    with torch.inference_mode():
        memory = graphs["unet_conditioning"].module(features, text)
        emb, modulation = graphs["unet_embed"].module(times, pooled, ids)
        (ours,) = graphs["unet"].module(sample, emb, modulation, *memory, *residuals)
        tokens = denoiser.resampler(features)
        whole = denoiser(sample, denoiser.embed(times, pooled, ids), text, tokens, residuals)
    torch.testing.assert_close(ours, whole, rtol=1e-5, atol=1e-5)


def test_equal_seeds_give_equal_examples(nano_like: Restorer) -> None:
    graph = table(nano_like)["aggregator"]
    one, same, other = (graph.example(1, 32, 32, torch.float32, seed) for seed in (1, 1, 2))
    assert all(map(torch.equal, one, same))
    assert not any(map(torch.equal, one, other))


def test_what_overflows_in_half_precision_stays_in_float32(nano_like: Restorer) -> None:
    graphs = table(nano_like)
    kept = {n for n, g in graphs.items() if g.precision(torch.float16) is torch.float32}
    assert kept == {"encode", "decode", "text"}
    with pytest.raises(EngineError, match=r"precision is torch\.bfloat16"):
        graphs["unet"].precision(torch.bfloat16)


def test_a_size_that_a_level_does_not_divide_is_refused() -> None:
    port = Port("x", (Axis(ROWS), 8, Axis(HEIGHT, 1, 4), Axis(WIDTH, 2)))
    assert port.shape({ROWS: 2, HEIGHT: 8, WIDTH: 3}) == (2, 8, 2, 6)
    with pytest.raises(ValueError, match="height is 6 latent pixels, it must be a multiple of 4"):
        port.shape({ROWS: 2, HEIGHT: 6, WIDTH: 3})


def test_axes_of_different_length_have_different_names() -> None:
    axes = (Axis(HEIGHT), Axis(HEIGHT, 8), Axis(HEIGHT, 1, 2), Axis(HEIGHT, 1, 4), Axis(WIDTH))
    assert len({str(axis) for axis in axes}) == len(axes)
