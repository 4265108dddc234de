"""Bound buffers, shared working memory and the memory guard, over a double of TensorRT."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from engines.errors import EngineError
from engines.graphs import Graph, step_graphs
from engines.restorer import Restorer
from engines.tensorrt.runtime import Buffers, Runtime, guard, load
from tests.engines.tensorrt.double import TRT, WORKING_BYTES, Engine, Processor, most

SIZES = {"rows": 2, "height": 32, "width": 64}


@pytest.fixture
def table(nano_like: Restorer) -> dict[str, Graph]:
    return step_graphs(nano_like.networks, nano_like.previewer)


@pytest.fixture
def engines(table: dict[str, Graph]) -> dict[str, Engine]:
    return {name: Engine(graph) for name, graph in table.items()}


@pytest.fixture
def device() -> Processor:
    return Processor()


@pytest.fixture
def runtime(engines: dict[str, Engine], device: Processor) -> Runtime:
    loaded = {name: engine.loaded() for name, engine in engines.items()}
    return Runtime(loaded, most(64), torch.float32, TRT, device)


def given(graph: Graph, seed: int = 0, sizes: dict[str, int] = SIZES) -> tuple[torch.Tensor, ...]:
    return graph.example(sizes["rows"], sizes["height"], sizes["width"], torch.float32, seed)


@pytest.mark.parametrize("name", ["previewer", "aggregator", "unet"])
@torch.inference_mode()
def test_what_comes_out_is_what_the_graph_computes(
    runtime: Runtime, table: dict[str, Graph], name: str
) -> None:
    for seed in range(2):
        inputs = given(table[name], seed)
        ours = runtime.run(name, inputs, SIZES)
        for one, other in zip(ours, table[name].module(*inputs), strict=True):
            torch.testing.assert_close(one, other)


@torch.inference_mode()
def test_an_answer_stays_when_the_next_is_computed(
    runtime: Runtime, table: dict[str, Graph]
) -> None:
    first = runtime.run("aggregator", given(table["aggregator"]), SIZES)
    kept = [tensor.clone() for tensor in first]
    runtime.run("aggregator", given(table["aggregator"], 1), SIZES)
    assert all(map(torch.equal, first, kept))


def test_a_size_is_prepared_once(
    runtime: Runtime, table: dict[str, Graph], engines: dict[str, Engine], device: Processor
) -> None:
    other = {"rows": 1, "height": 32, "width": 32}
    for sizes in (SIZES, SIZES, other, SIZES):
        runtime.run("unet", given(table["unet"], sizes=sizes), sizes)
    assert len(engines["unet"].contexts) == device.recordings == 2


def test_sizes_not_used_for_long_are_prepared_anew(
    runtime: Runtime, table: dict[str, Graph], device: Processor
) -> None:
    inputs = given(table["aggregator"], sizes={"rows": 1, "height": 8, "width": 8})
    for side in range(4, 4 + 4 * 26, 4):  # more than are kept
        width = {"rows": 1, "height": 8, "width": min(side, 64)}
        runtime.run("aggregator", given(table["aggregator"], sizes=width), width)
    assert device.recordings == 16
    runtime.run("aggregator", inputs, {"rows": 1, "height": 8, "width": 8})
    assert device.recordings == 16


def test_the_aggregator_writes_where_the_main_network_reads(
    runtime: Runtime, table: dict[str, Graph], engines: dict[str, Engine]
) -> None:
    for name in ("aggregator", "unet"):
        runtime.run(name, given(table[name]), SIZES)
    [wrote], [read] = engines["aggregator"].contexts, engines["unet"].contexts
    residuals = [port.name for port in table["aggregator"].outputs]
    assert [wrote.addresses[name] for name in residuals] == [
        read.addresses[name] for name in residuals
    ]
    assert wrote.memory == read.memory


def test_inputs_that_were_optimised_away_are_not_bound(table: dict[str, Graph]) -> None:
    graph = table["aggregator"]
    engine = Engine(graph, unused=frozenset({"emb"}))
    runtime = Runtime({"aggregator": engine.loaded()}, most(64), torch.float32, TRT, Processor())
    with pytest.raises(KeyError, match="emb"):  # of the double, which runs the whole module
        runtime.run("aggregator", given(graph), SIZES)
    assert "emb" not in engine.contexts[0].addresses


def test_sizes_beyond_the_engine_are_refused_by_name_and_limit(
    runtime: Runtime, table: dict[str, Graph]
) -> None:
    large = {"rows": 9, "height": 32, "width": 128}
    with pytest.raises(EngineError, match=r"rows 9 \(at most 8\), width 128 \(at most 64\)"):
        runtime.run("unet", given(table["unet"], sizes=large), large)


def test_an_engine_that_takes_other_sizes_says_which(table: dict[str, Graph]) -> None:
    loaded = {"aggregator": Engine(table["aggregator"], rows=1).loaded()}
    runtime = Runtime(loaded, most(64), torch.float32, TRT, Processor())
    with pytest.raises(EngineError, match="aggregator: degraded of 2x12x32x64 is not"):
        runtime.run("aggregator", given(table["aggregator"]), SIZES)


def test_a_run_that_tensorrt_refuses_is_an_error(table: dict[str, Graph]) -> None:
    loaded = {"aggregator": Engine(table["aggregator"], works=False).loaded()}
    runtime = Runtime(loaded, most(64), torch.float32, TRT, Processor())
    with pytest.raises(EngineError, match="aggregator: TensorRT refused to run it"):
        runtime.run("aggregator", given(table["aggregator"]), SIZES)


def test_what_does_not_fit_is_refused_before_it_is_taken(engines: dict[str, Engine]) -> None:
    loaded = {name: engine.loaded() for name, engine in engines.items()}
    needed = Buffers.needed(list(loaded.values()), most(64), torch.float32)
    assert needed > WORKING_BYTES
    Runtime(loaded, most(64), torch.float32, TRT, Processor(free=needed))
    with pytest.raises(EngineError, match="buffers of the engines need"):
        Runtime(loaded, most(64), torch.float32, TRT, Processor(free=needed - 1))


def test_the_buffers_take_what_was_said(engines: dict[str, Engine]) -> None:
    loaded = [engine.loaded() for engine in engines.values()]
    buffers = Buffers(loaded, most(64), torch.float32, Processor())
    ports = {p.name: p for e in loaded for p in (*e.graph.inputs, *e.graph.outputs)}
    taken = sum(buffers.view(port, most(64)).nbytes for port in ports.values())
    assert buffers.pool.nbytes >= WORKING_BYTES
    assert taken + buffers.pool.nbytes == Buffers.needed(loaded, most(64), torch.float32)


def test_the_guard_names_both_sides() -> None:
    guard(5, Processor(free=5), "weights")
    with pytest.raises(EngineError, match=r"weights need 6\.00 GB, 5\.00 GB .* are free"):
        guard(6 * 10**9, Processor(free=5 * 10**9), "weights")


def test_a_plan_that_tensorrt_does_not_take_is_told_with_its_words(
    table: dict[str, Graph],
) -> None:
    refuses = SimpleNamespace(deserialize_cuda_engine=lambda plan: None)
    trt, log = SimpleNamespace(Runtime=lambda log: refuses), SimpleNamespace(errors=["too old"])
    with pytest.raises(EngineError, match="unet: the engine cannot be loaded: too old"):
        load(b"plan", table["unet"], 1, trt, Processor(), log)
