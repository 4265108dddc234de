"""Steps through TensorRT's runtime: engines are doubles here, and real ones are built for a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
import torch
from PIL import Image

from engines.backends import tensorrt
from engines.backends.eager import EagerBackend
from engines.backends.tensorrt import MOST_ROWS, TensorRtBackend, range_of
from engines.cache import EngineCache
from engines.errors import EngineError
from engines.graph_checks import operators
from engines.graphs import Graph, step_graphs
from engines.onnx_files import exported
from engines.params import RestoreParams
from engines.restoration import Restoration
from engines.restorer import Restorer
from engines.tensorrt.builder import Flavour
from engines.tensorrt.runtime import Runtime
from engines.tensorrt.stored import Target, stored
from tests.engines.tensorrt.double import TRT, Engine, Processor, most

Photo = Callable[..., Image.Image]


def backend(table: dict[str, Graph]) -> TensorRtBackend:
    loaded = {name: Engine(graph).loaded() for name, graph in table.items()}
    return TensorRtBackend(
        table, Runtime(loaded, most(64), torch.float32, TRT, Processor()), "double"
    )


@pytest.fixture
def doubled(either: Restorer) -> Iterator[Restorer]:
    own = either.loop.backend
    either.loop.backend = backend(step_graphs(either.networks, either.previewer))
    yield either
    either.loop.backend = own


def latents(restorer: Restorer, photo: Photo, count: int) -> list[torch.Tensor]:
    values = {"steps": 2, "guidance_scale": 3.0, "prompt": "warm", "negative_prompt": ""}
    begun = [
        restorer.begin(photo((64, 64), seed=seed), RestoreParams.of({**values, "seed": seed}))
        for seed in range(count)
    ]
    while going := [r for r in begun if not r.done]:
        restorer.step(going)
    assert all(isinstance(r, Restoration) for r in begun), "the picture is one tile"
    return [r.latents for r in begun if isinstance(r, Restoration)]


@pytest.mark.parametrize("count", [1, MOST_ROWS // 2 + 1])
def test_restorations_come_out_as_torch_makes_them(
    doubled: Restorer, photo: Photo, count: int
) -> None:
    ours = latents(doubled, photo, count)
    networks = doubled.networks
    doubled.loop.backend = EagerBackend(networks.denoiser, doubled.previewer, networks.aggregator)
    theirs = latents(doubled, photo, count)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_no_tensorrt_says_what_to_install(
    nano_like: Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.tensorrt.builder.find_spec", lambda _: None)
    assert tensorrt.flavour() is None
    table = step_graphs(nano_like.networks, nano_like.previewer)
    place = torch.device("cuda")
    with pytest.raises(EngineError, match="pip install tensorrt or tensorrt-rtx"):
        tensorrt.open_engines(table, "weights", EngineCache(tmp_path), (32, 64), place)


@pytest.mark.slow
@pytest.mark.skipif(not Flavour.RTX.installed, reason="needs tensorrt-rtx")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_one_engine_for_all_sizes_fuses_every_attention(
    nano_like: Restorer, tmp_path: Path
) -> None:
    table, cache = step_graphs(nano_like.networks, nano_like.previewer), EngineCache(tmp_path)
    for graph in table.values():
        target = Target(Flavour.RTX, 89, range_of(graph, 32, 192))
        _, facts = stored(graph, "weights", cache, target)
        file = onnx.load(exported(graph, "weights", cache, torch.float16), load_external_data=False)
        assert facts.fused_attention == operators(file)["Softmax"] > 0
