"""The plan of GPU memory: counts against the networks, live tensors against ones made by hand."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engines import memory
from engines.errors import WeightsError
from engines.graphs import HEIGHT, ROWS, STEP_GRAPHS, WIDTH, step_graphs
from engines.memory import GIB, OPTIONS, ModelSizes, Work, measure, need, plan
from engines.restorer import Restorer
from engines.step import BATCH_LIMIT
from engines.weights import load_lora

SMALL = (64, 128)
WORK = Work(picture=SMALL, reserve_bytes=0)
FULL = (1024, 1024)


@pytest.fixture(scope="module")
def tiny(sdxl_like_folder: Path) -> ModelSizes:
    return measure(sdxl_like_folder, (SMALL,))


@pytest.fixture(scope="module")
def sdxl() -> ModelSizes:
    return measure("sdxl", (FULL,))


def test_the_graphs_of_a_network_share_out_its_weights(
    tiny: ModelSizes, sdxl_like: Restorer
) -> None:
    networks = sdxl_like.networks
    for name, network in (("unet", networks.denoiser), ("aggregator", networks.aggregator)):
        graphs = [g for key, g in tiny.graphs.items() if key.partition("_")[0] == name]
        count = sum(parameter.numel() for parameter in network.parameters())
        assert sum(graph.values for graph in graphs) == count
    assert tiny.graphs["previewer"].values == tiny.graphs["unet"].values


def test_what_is_not_in_half_precision_takes_four_bytes(tiny: ModelSizes) -> None:
    wide = {name for name, graph in tiny.graphs.items() if graph.itemsize == 4}
    assert wide == {"encode", "decode"}


def test_residuals_are_what_the_table_says(tiny: ModelSizes, sdxl_like: Restorer) -> None:
    graph = step_graphs(sdxl_like.networks, sdxl_like.previewer)["aggregator"]
    factor = sdxl_like.networks.codec.factor
    sizes = {ROWS: 1, WIDTH: SMALL[0] // factor, HEIGHT: SMALL[1] // factor}
    values = sum(torch.Size(port.shape(sizes)).numel() for port in graph.outputs)
    assert tiny.graphs["aggregator"].flows[SMALL].outputs == 2 * values


def test_the_previewers_difference_has_the_rank_of_its_file(
    tiny: ModelSizes, sdxl_like_folder: Path
) -> None:
    pairs = load_lora(sdxl_like_folder).values()
    stored = sum(pair.down.numel() + pair.up.numel() for pair in pairs)
    assert sum(graph.lora for graph in tiny.graphs.values()) == stored
    assert {name for name, graph in tiny.graphs.items() if graph.lora} == {
        *("previewer", "previewer_embed", "previewer_conditioning")
    }


def test_a_difference_that_is_larger_than_the_weights_is_not_taken(tiny: ModelSizes) -> None:
    graph = tiny.graphs["previewer"]
    assert graph.weight_bytes("difference") == 2 * graph.lora < graph.weight_bytes()
    assert replace(graph, lora=graph.values + 1).weight_bytes("difference") == 2 * graph.values


def test_one_byte_a_value_is_for_matrices_of_step_graphs(tiny: ModelSizes) -> None:
    for name, graph in tiny.graphs.items():
        saved = graph.weight_bytes("tiles") - graph.weight_bytes("fp8")
        if name not in STEP_GRAPHS:
            assert saved == graph.weight_bytes("tiles") - graph.weight_bytes("difference")
        elif not graph.lora:
            assert saved == graph.matrices < graph.values


def test_what_is_loaded_to_begin_comes_layer_by_layer(tiny: ModelSizes) -> None:
    text = tiny.graphs["text"]
    stays, comes = (
        dict(memory._phases(tiny, option, 1, WORK))["text"] for option in ("resident", "begin")
    )
    assert comes - stays == 2 * text.layer
    assert 0 < text.layer < text.values


def test_a_weight_that_is_made_of_what_is_kept_takes_room_in_its_phase(tiny: ModelSizes) -> None:
    kept, shared, single = (
        dict(memory._phases(tiny, option, 1, WORK)) for option in ("begin", "difference", "fp8")
    )
    made = {name: 12 * tiny.graphs[name].layer for name in STEP_GRAPHS}
    assert shared["previewer"] - kept["previewer"] == made["previewer"] > 0
    assert shared["unet"] == kept["unet"]
    assert {name: single[name] - kept[name] for name in STEP_GRAPHS} == made


def test_a_codec_in_tiles_takes_what_a_tile_does_and_what_they_are_put_together_in(
    sdxl_like_folder: Path,
) -> None:
    sizes, work = measure(sdxl_like_folder, (FULL,)), Work(picture=FULL)
    whole, tiles = (
        dict(memory._phases(sizes, option, 1, work)) for option in ("difference", "tiles")
    )
    decode = sizes.graphs["decode"].flows
    assert whole["decode"] == decode[FULL].bytes
    assert tiles["decode"] == decode[576, 576].bytes + 3 * decode[FULL].outputs < whole["decode"]


def test_a_configuration_is_enough(
    tiny: ModelSizes, sdxl_like_folder: Path, tmp_path: Path
) -> None:
    for path in sdxl_like_folder.rglob("*config.json"):
        target = tmp_path / path.relative_to(sdxl_like_folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    bare = measure(tmp_path, (SMALL,))
    assert bare.parameters == tiny.parameters
    assert bare.graphs["unet"] == tiny.graphs["unet"]
    with pytest.raises(WeightsError, match="neither a folder nor one of: nano"):
        measure(tmp_path / "nothing")


def test_an_autoencoder_in_half_the_bytes_takes_half_the_memory(
    tiny: ModelSizes, sdxl_like_folder: Path
) -> None:
    whole, half = (m.graphs["decode"] for m in (tiny, measure(sdxl_like_folder, (SMALL,), 2)))
    assert half.weight_bytes() * 2 == whole.weight_bytes()
    assert half.flows[SMALL].bytes * 2 == whole.flows[SMALL].bytes


@pytest.mark.parametrize("option", OPTIONS)
def test_a_larger_batch_needs_more_for_itself_and_the_same_for_weights(
    tiny: ModelSizes, option: str
) -> None:
    one, two, four = (need(tiny, option, batch, WORK) for batch in (1, 2, 4))
    assert one.weights == two.weights == four.weights
    assert four.state == 2 * two.state == 4 * one.state
    assert one.total < two.total < four.total


def test_each_option_keeps_no_more_weights_than_the_one_before(tiny: ModelSizes) -> None:
    weights = [need(tiny, option, 1, WORK).weights for option in OPTIONS]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] == sum(graph.weight_bytes() for graph in tiny.graphs.values())


def test_the_tone_network_counts_though_it_is_no_graph(
    nano_like_folder: Path, nano_like: Restorer
) -> None:
    tone = nano_like.networks.tone
    assert tone is not None
    count = sum(parameter.numel() for parameter in tone.parameters())
    assert measure(nano_like_folder, (SMALL,)).other_bytes == 2 * count


def test_the_largest_batch_that_fits_is_planned_to_the_byte(tiny: ModelSizes) -> None:
    three = need(tiny, "resident", 3, WORK).total
    exact, less = (plan(tiny, size, WORK).best for size in (three, three - 1))
    assert (exact.option, exact.batch, exact.need.total) == ("resident", 3, three)
    assert (less.option, less.batch) == ("resident", 2)


def test_much_memory_takes_as_many_as_a_step_does(tiny: ModelSizes) -> None:
    best = plan(tiny, GIB, WORK).best
    assert (best.option, best.batch) == ("resident", BATCH_LIMIT)
    assert plan(tiny, GIB, WORK).short_bytes == 0


def test_where_nothing_fits_it_is_said_by_how_much(tiny: ModelSizes) -> None:
    least = min(need(tiny, option, 1, WORK).total for option in OPTIONS)
    said = plan(tiny, least - 10, WORK)
    assert (said.best.batch, said.short_bytes) == (0, 10)
    assert plan(tiny, least, WORK).short_bytes == 0


def test_the_reserve_is_set_aside(tiny: ModelSizes) -> None:
    kept = need(tiny, "resident", 1, Work(picture=SMALL, reserve_bytes=GIB))
    assert kept.total == need(tiny, "resident", 1, WORK).total + GIB


@pytest.mark.slow
def test_the_published_size_has_the_published_counts(sdxl: ModelSizes) -> None:
    assert sdxl.parameters["unet"] == 2_567_463_684
    billions = {name: round(count / 1e9, 3) for name, count in sdxl.parameters.items()}
    assert billions == {
        "unet": 2.567,
        "unet with adapter": 3.335,
        "resampler": 0.083,
        "aggregator": 1.005,
        "vision": 0.304,
        "text": 0.818,
        "codec": 0.084,
    }
    step, residuals = sdxl.graphs["unet"], sdxl.graphs["aggregator"].flows[FULL].outputs
    assert step.weight_bytes() / 1e9 == pytest.approx(4.45, abs=0.02)
    assert residuals / 1e6 == pytest.approx(54, abs=0.5)


@pytest.mark.slow
def test_working_memory_is_near_what_a_compiler_states(sdxl: ModelSizes) -> None:
    # TensorRT-RTX states 1.27 GB for eight rows of 128 x 128 latents at capability 8.9.
    assert 8 * sdxl.graphs["unet"].flows[FULL].working / 1e9 == pytest.approx(1.27, rel=0.1)


@pytest.mark.slow
def test_a_larger_gpu_never_does_worse(sdxl: ModelSizes) -> None:
    plans = [plan(sdxl, size * GIB) for size in (8, 12, 16, 24, 40, 80)]
    order = list(OPTIONS)
    levels = [order.index(one.best.option) for one in plans]
    assert levels == sorted(levels, reverse=True)
    assert [one.short_bytes for one in plans] == [0] * 6
    assert (plans[-1].best.option, plans[-1].best.batch) == ("resident", BATCH_LIMIT)
    for option in range(len(OPTIONS)):
        batches = [one.fits[option].batch for one in plans]
        assert batches == sorted(batches)
