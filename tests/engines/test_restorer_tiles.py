"""Large pictures through the restorer: tiles, and steps that fail half-way."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from engines.params import RestoreParams
from engines.restoration import Restoration, TiledRestoration
from engines.restorer import Restorer
from engines.sizes import WorkLimits
from engines.tiling import Tiling

Photo = Callable[..., Image.Image]
PARAMS = {"prompt": "bright photo", "negative_prompt": "blurry", "steps": 2, "guidance_scale": 1.0}
SIZE = (250, 130)  # 256 x 192 px of work in tiles of at most 128 px


def params(**changes: Any) -> RestoreParams:
    return RestoreParams.of({**PARAMS, **changes})


@pytest.fixture
def tiling(either: Restorer, monkeypatch: pytest.MonkeyPatch) -> Restorer:
    """A restorer that takes no picture over 128 px in one piece."""
    small = replace(either.settings, tiling=Tiling(128, 64), limits=WorkLimits(None, None))
    monkeypatch.setattr(either, "settings", small)
    return either


def begun(restorer: Restorer, photo: Photo, **changes: Any) -> TiledRestoration:
    restoration = restorer.begin(photo(SIZE), params(**changes))
    assert isinstance(restoration, TiledRestoration)
    return restoration


def test_a_large_picture_comes_back_at_its_own_size(tiling: Restorer, photo: Photo) -> None:
    restoration = begun(tiling, photo)
    assert tiling.preview(restoration) is None
    while not restoration.done:
        tiling.step([restoration])
    preview = tiling.preview(restoration)
    assert preview is not None
    assert preview.size == tiling.finish(restoration).size == SIZE


def test_tiles_see_the_same_noise_where_they_overlap(tiling: Restorer, photo: Photo) -> None:
    restoration = begun(tiling, photo, start_from_noise=True)
    layout, factor = restoration.layout, tiling.networks.codec.factor
    (_, first), (_, second) = layout.corners[:2]
    shared = (first + layout.width - second) // factor
    left, right = (tile.latents for tile in restoration.tiles[:2])
    assert shared > 0
    assert torch.equal(left[..., -shared:], right[..., :shared])


@pytest.mark.slow
def test_a_seed_decides_a_large_picture_too(tiling: Restorer, photo: Photo) -> None:
    results = []
    for seed in (5, 5, 6):
        restoration = begun(tiling, photo, seed=seed)
        while not restoration.done:
            tiling.step([restoration])
        results.append(np.array(tiling.finish(restoration)))
    assert np.array_equal(results[0], results[1])
    assert not np.array_equal(results[0], results[2])


def test_a_large_picture_and_a_small_one_step_together(tiling: Restorer, photo: Photo) -> None:
    large, small = begun(tiling, photo), tiling.begin(photo((64, 64)), params())
    infos = tiling.step([large, small])
    assert [info.step for info in infos] == [1, 1]
    assert {tile.step for tile in large.tiles} == {1}


class OnceError(Exception):
    pass


def fail_once(restorer: Restorer, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The main network raises at its (after + 1)-th call and never again."""
    backend, calls = restorer.loop.backend, [0]
    predict = backend.predict

    def failing(*args: Any) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == after + 1:
            raise OnceError
        return predict(*args)

    monkeypatch.setattr(backend, "predict", failing)


def test_tiles_stay_in_step_when_a_network_fails_on_some_of_them(
    tiling: Restorer, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiling.loop, "batch_limit", 2)
    restoration = begun(tiling, photo)
    fail_once(tiling, monkeypatch, after=1)
    with pytest.raises(OnceError):
        tiling.step([restoration])
    assert {tile.step for tile in restoration.tiles} == {0}
    assert tiling.step([restoration])[0].step == 1


def test_a_step_that_failed_can_be_taken_again_with_the_same_outcome(
    either: Restorer, photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = params(steps=3, conditioning_scale=(1.0, 0.5, 0.05))
    restoration = either.begin(photo((64, 64)), wanted)
    assert isinstance(restoration, Restoration)
    either.step([restoration])
    either.step([restoration])
    twin = copy.deepcopy(restoration)
    either.step([twin])
    fail_once(either, monkeypatch, after=0)
    with pytest.raises(OnceError):
        either.step([restoration])
    either.step([restoration])
    assert torch.equal(restoration.latents, twin.latents)


def test_a_restoration_cannot_be_stepped_twice_at_once(either: Restorer, photo: Photo) -> None:
    restoration = either.begin(photo((64, 64)), params())
    with pytest.raises(ValueError, match="given twice"):
        either.step([restoration, restoration])
    assert restoration.step == 0
