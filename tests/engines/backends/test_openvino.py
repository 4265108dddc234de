"""The compiled backend against torch: single graphs' worth is in test_export, here whole steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import engines
from engines.backends.eager import EagerBackend
from engines.backends.openvino import OpenVinoBackend
from engines.cache import EngineCache
from engines.errors import EngineError
from engines.graphs import step_graphs
from engines.params import RestoreParams
from engines.restorer import Restorer

Photo = Callable[..., Image.Image]
MIX = (
    ((64, 64), {"seed": 1, "steps": 2, "guidance_scale": 1.0}),
    ((64, 64), {"seed": 2, "steps": 3, "guidance_scale": 3.0, "prompt": "warm"}),
    ((100, 70), {"seed": 3, "steps": 3, "creative_start": 0.4}),
)
NEAR = 1e-4  # latents, float32

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> EngineCache:
    return EngineCache(tmp_path_factory.mktemp("engines"))


@pytest.fixture
def compiled(either: Restorer, cache: EngineCache) -> Iterator[Restorer]:
    """The restorer with float32 engines; its own backend comes back afterwards."""
    own = either.loop.backend
    table = step_graphs(either.networks, either.previewer)
    either.loop.backend = OpenVinoBackend(table, either.fingerprint, cache, "f32")
    yield either
    either.loop.backend = own


def latents(restorer: Restorer, photo: Photo, chosen: tuple[int, ...]) -> list[torch.Tensor]:
    begun = []
    for index in chosen:
        size, values = MIX[index]
        params = RestoreParams.of({"prompt": "", "negative_prompt": "", **values})
        begun.append(restorer.begin(photo(size, seed=index), params))
    while going := [r for r in begun if not r.done]:
        restorer.step(going)
    return [part.latents for r in begun for part in getattr(r, "tiles", (r,))]


@pytest.mark.slow
def test_mixed_restorations_come_out_as_torch_makes_them(compiled: Restorer, photo: Photo) -> None:
    ours = latents(compiled, photo, (0, 1, 2))
    loop, backend = compiled.loop, compiled.loop.backend
    loop.backend = EagerBackend(
        compiled.networks.denoiser, compiled.previewer, compiled.networks.aggregator
    )
    theirs = latents(compiled, photo, (0, 1, 2))
    loop.backend = backend
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=NEAR, atol=NEAR)


def test_neighbors_in_a_batch_change_nothing(compiled: Restorer, photo: Photo) -> None:
    together = latents(compiled, photo, (0, 1, 2))
    alone = [one for index in range(3) for one in latents(compiled, photo, (index,))]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one, other, rtol=NEAR, atol=NEAR)


def test_the_same_again_is_the_same_bit_for_bit(compiled: Restorer, photo: Photo) -> None:
    one, other = (latents(compiled, photo, (1,)) for _ in range(2))
    assert all(map(torch.equal, one, other))


def test_the_name_says_what_results_depend_on(compiled: Restorer) -> None:
    assert compiled.backend.startswith("openvino 20")
    assert compiled.backend.endswith(" cpu f32")


@pytest.mark.slow
def test_engines_are_kept_and_a_damaged_one_is_built_anew(
    nano_like: Restorer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = step_graphs(nano_like.networks, nano_like.previewer)
    cache = EngineCache(tmp_path)
    OpenVinoBackend(table, nano_like.fingerprint, cache, "f32")
    kinds = sorted((e.key.graph, e.key.backend) for e in cache.entries())
    assert kinds == sorted((name, kind) for name in table for kind in ("onnx", "openvino"))
    blob = next(tmp_path.glob("unet-*/model.blob"))
    whole = blob.read_bytes()
    blob.write_bytes(whole[: len(whole) // 2])
    OpenVinoBackend(table, nano_like.fingerprint, cache, "f32")
    assert len(blob.read_bytes()) > len(whole) / 2  # not to the byte: each build differs
    assert [entry.fault() for entry in cache.entries()] == [None] * len(kinds)
    assert "is built anew: model.blob has" in caplog.text


def test_a_precision_that_the_processor_lacks_is_refused(
    nano_like: Restorer, cache: EngineCache
) -> None:
    table = step_graphs(nano_like.networks, nano_like.previewer)
    with pytest.raises(EngineError, match="precision is 'f8', this processor has: f32"):
        OpenVinoBackend(table, nano_like.fingerprint, cache, "f8")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_photograph_restored_by_nano_looks_the_same(tmp_path: Path, photo: Photo) -> None:
    reference = engines.load("nano")
    fast = engines.load("nano", backend="auto", cache=tmp_path)
    assert fast.backend.startswith("openvino")
    pictures = []
    for restorer in (reference, fast):
        begun = restorer.begin(photo((128, 96)), restorer.params("balanced"))
        while not begun.done:
            restorer.step([begun])
        pictures.append(np.asarray(restorer.finish(begun)).astype(int))
    off = np.abs(pictures[0] - pictures[1])
    assert off.max() <= 4  # grey levels, in bfloat16 where the processor has it
    assert off.mean() < 0.25
