"""Guests: what is at home where, and that nothing reads it elsewhere than where it is hosted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from engines.loader import load
from engines.residency import guests, host, tensors
from engines.restorer import Restorer
from tests.engines.backends.test_tensorrt import latents

FAR = torch.device("meta")  # stands for a GPU


@pytest.fixture(autouse=True)
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are brought there are copies, as on a GPU."""
    to = torch.Tensor.to

    def brought(tensor: torch.Tensor, *given: Any, **options: Any) -> torch.Tensor:
        return tensor.clone() if given == (FAR,) else to(tensor, *given, **options)

    monkeypatch.setattr(torch.Tensor, "to", brought)


class Watched(nn.BatchNorm1d):
    """Notes where its weights are while it runs."""

    seen: set[int]

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        self.seen = _places(self)
        return super().forward(input)


def test_a_layers_weights_come_when_it_is_called_and_what_they_were_is_there_again() -> None:
    layer = Watched(3).eval()
    at_home = _places(layer)
    host([layer], FAR)
    layer(torch.ones(2, 3))
    assert len(at_home) == 5
    assert not layer.seen & at_home
    assert _places(layer) == at_home


def test_a_layer_is_there_alone() -> None:
    one, other = Watched(3).eval(), Watched(3).eval()
    both = nn.Sequential(one, other)
    at_home = _places(one)
    host([both], FAR)
    elsewhere: list[bool] = []
    other.register_forward_hook(lambda *_: elsewhere.append(_places(one) != at_home))
    both(torch.ones(2, 3))
    assert elsewhere == [False]


def test_weights_go_home_from_a_layer_that_fails() -> None:
    layer = nn.Linear(2, 2)
    at_home = _places(layer)
    host([layer], FAR)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer(torch.ones(1, 3))
    assert _places(layer) == at_home


def test_weights_go_home_when_there_is_no_room_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(2, 2)
    at_home, room = _places(layer), iter([torch.zeros(2, 2)])
    host([layer], FAR)

    def brought(_: torch.Tensor, place: torch.device) -> torch.Tensor:
        for left in room:
            return left
        raise torch.OutOfMemoryError(str(place))

    monkeypatch.setattr(torch.Tensor, "to", brought)
    with pytest.raises(torch.OutOfMemoryError):
        layer(torch.ones(1, 2))
    assert _places(layer) == at_home


def test_a_layer_that_is_named_twice_comes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, came = nn.Linear(2, 2), []
    host([layer, nn.Sequential(layer)], FAR)
    monkeypatch.setattr(torch.Tensor, "to", lambda part, _: came.append(part) or part.clone())
    layer(torch.ones(1, 2))
    assert len(came) == 2


def test_weights_that_modules_share_are_there_once() -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.weight = one.weight
    assert len(tensors([one, other])) == 3


def _places(module: nn.Module) -> set[int]:
    return {own.data_ptr() for own in tensors([module])}


PLANS = ["begin", "difference"]


@pytest.mark.parametrize("memory", PLANS)
def test_guests_are_read_where_they_are_hosted_and_nowhere_else(
    either: Restorer,
    photo: Callable[..., Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    memory: str,
) -> None:
    real: dict[int, torch.Tensor] = {}
    came: set[int] = set()

    def come(guest: Any, *_: Any) -> None:
        for part in guest._weights:
            came.add(id(part))
            guest._homes.append((part, part.data))
            part.data = real[id(part)]

    monkeypatch.setattr("engines.residency._Guest.come", come)
    own, (expected,) = load(either.name, memory=memory), latents(either, photo, 1)
    for part in tensors(guests(own.networks, own.previewer)):
        real[id(part)] = part.data
        if part.is_floating_point():
            part.data = torch.full_like(part.data, torch.nan)
    assert torch.equal(latents(own, photo, 1)[0], expected)
    assert came == set(real)


@pytest.mark.parametrize("memory", PLANS)
def test_a_restoration_leaves_every_guest_at_home(
    sdxl_like: Restorer,
    photo: Callable[..., Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    memory: str,
) -> None:
    monkeypatch.setattr("engines.loader.host", lambda away, _: host(away, FAR))
    own, (expected,) = load(sdxl_like.name, memory=memory), latents(sdxl_like, photo, 1)
    at_home = [part.data_ptr() for part in tensors(guests(own.networks, own.previewer))]
    assert torch.equal(latents(own, photo, 1)[0], expected)
    assert [part.data_ptr() for part in tensors(guests(own.networks, own.previewer))] == at_home
