"""Which backend is taken, and what of the weights stays with torch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from PIL import Image

from engines import choice
from engines.choice import Choice
from engines.errors import EngineError
from engines.graphs import step_graphs
from engines.residency import guests, tensors
from engines.restorer import Restorer
from tests.engines.backends.test_tensorrt import backend, latents

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def own(nano_like: Restorer) -> Choice:
    """A choice over networks of its own, which may be taken apart."""
    networks = copy.deepcopy(nano_like.networks)
    return Choice(networks, copy.deepcopy(nano_like.previewer), nano_like.settings, None)


@pytest.mark.parametrize(
    ("name", "place", "dtype", "said"),
    [
        ("openvino", CUDA, torch.float16, r"it runs on cpu torch.float32, not cuda torch.float16"),
        ("tensorrt", CPU, torch.float16, r"it runs on cuda torch.float16, not cpu torch.float16"),
        ("tensorrt", CUDA, torch.float32, r"it runs on cuda torch.float16, not cuda torch.float32"),
    ],
)
def test_a_backend_is_refused_for_what_it_cannot_run(
    own: Choice, name: str, place: torch.device, dtype: torch.dtype, said: str
) -> None:
    with pytest.raises(EngineError, match=said):
        own.backend(name, place, dtype, None)


def test_torch_is_asked_for_by_name(own: Choice) -> None:
    assert own.backend("torch", CPU, torch.float32, None) is None


def test_where_tensorrt_fails_torch_runs_the_networks_and_says_why(
    own: Choice, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise EngineError("weights need 9.00 GB")

    monkeypatch.setattr(choice.tensorrt, "open_engines", fails)
    assert own.backend("auto", CUDA, torch.float16, None) is None
    assert "torch runs the networks, TensorRT does not: weights need 9.00 GB" in caplog.text
    with pytest.raises(EngineError, match=r"9\.00 GB"):
        own.backend("tensorrt", CUDA, torch.float16, None)


def test_engines_are_made_for_sides_from_the_smallest_picture_to_a_tile(
    own: Choice, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(choice.tensorrt, "open_engines", lambda *given: asked.append(given[3]))
    own.backend("tensorrt", CUDA, torch.float16, None)
    factor = own.networks.codec.factor
    assert asked == [(64 // factor, own.settings.tiling.tile_px // factor)]


@pytest.mark.slow
def test_what_engines_hold_is_given_up_and_restorations_come_out_the_same(
    own: Choice, nano_like: Restorer, photo: Callable[..., Image.Image]
) -> None:
    expected = latents(nano_like, photo, 1)
    whole = sum(p.numel() for p in own.networks.denoiser.parameters())
    restorer = Restorer(own.networks, own.previewer, nano_like.alphas, own.settings)
    # The engines compute with the weights of another copy.
    restorer.loop.backend = backend(step_graphs(nano_like.networks, nano_like.previewer))
    own.move(CPU, whole=False)
    left = sum(p.numel() for p in own.networks.denoiser.parameters())
    assert 0 < left < whole / 2
    assert restorer.device == CPU
    for one, other in zip(latents(restorer, photo, 1), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_whole_model_keeps_everything(own: Choice) -> None:
    own.move(CPU, whole=True)
    assert all(p.numel() for p in own.networks.denoiser.parameters())


@pytest.mark.parametrize("whole", [True, False])
def test_guests_stay_where_they_are(
    own: Choice, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    staying = guests(own.networks, own.previewer)
    monkeypatch.setattr(torch.Tensor, "to", lambda part, _: part.clone())
    everything = tensors([*own.networks.modules(), own.previewer])
    before = {id(part): part.data_ptr() for part in everything}
    own.move(CUDA, whole=whole, guests=staying)
    left = [part for part in everything if part.numel()]
    stayed = {id(part) for part in left if part.data_ptr() == before[id(part)]}
    assert stayed == {id(part) for part in tensors(staying)}
    assert len(left) > len(stayed)
