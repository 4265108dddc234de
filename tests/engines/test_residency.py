"""Guests: what is at home where, and that nothing reads it elsewhere than where it is hosted."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from engines.loader import load
from engines.residency import guests, hosted, tensors
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


def test_hosted_weights_come_and_what_they_were_is_there_again() -> None:
    layer = nn.BatchNorm1d(3)
    at_home = _places(layer)
    with hosted([layer], FAR):
        assert not _places(layer) & at_home
    assert len(at_home) == 5
    assert _places(layer) == at_home


def test_weights_go_home_from_a_block_that_fails() -> None:
    layer = nn.Linear(2, 2)
    at_home = _places(layer)
    with pytest.raises(KeyError), hosted([layer], FAR):
        raise KeyError
    assert _places(layer) == at_home


def test_weights_go_home_when_there_is_no_room_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nn.Linear(2, 2)
    at_home, room = _places(layer), iter([torch.zeros(2, 2)])

    def brought(_: torch.Tensor, place: torch.device) -> torch.Tensor:
        for left in room:
            return left
        raise torch.OutOfMemoryError(str(place))

    monkeypatch.setattr(torch.Tensor, "to", brought)
    with pytest.raises(torch.OutOfMemoryError), hosted([layer], FAR):
        pass
    assert _places(layer) == at_home


def test_without_a_place_nothing_is_moved() -> None:
    layer = nn.Linear(2, 2)
    at_home = _places(layer)
    with hosted([layer], None):
        assert _places(layer) == at_home


def test_weights_that_modules_share_are_there_once() -> None:
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    other.weight = one.weight
    assert len(tensors([one, other])) == 3


def _places(module: nn.Module) -> set[int]:
    return {own.data_ptr() for own in tensors([module])}


@pytest.mark.parametrize("memory", ["begin", "difference"])
def test_guests_are_read_where_they_are_hosted_and_nowhere_else(
    either: Restorer,
    photo: Callable[..., Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    memory: str,
) -> None:
    own, (expected,) = load(either.name, memory=memory), latents(either, photo, 1)
    real = {id(part): part.data for part in tensors(guests(own.networks, own.previewer))}

    def hide(modules: Iterable[nn.Module]) -> None:
        for part in tensors(modules):
            if part.is_floating_point():
                part.data = torch.full_like(part.data, torch.nan)

    @contextmanager
    def lent(modules: Iterable[nn.Module], place: torch.device | None) -> Generator[None]:
        assert place == own.device
        for part in tensors(modules):
            part.data = real[id(part)]
        yield
        hide(modules)

    hide(guests(own.networks, own.previewer))
    monkeypatch.setattr("engines.restorer.hosted", lent)
    assert torch.equal(latents(own, photo, 1)[0], expected)


@pytest.mark.parametrize("memory", ["begin", "difference"])
def test_a_restoration_leaves_every_guest_at_home(
    sdxl_like: Restorer,
    photo: Callable[..., Image.Image],
    monkeypatch: pytest.MonkeyPatch,
    memory: str,
) -> None:
    own, (expected,) = load(sdxl_like.name, memory=memory), latents(sdxl_like, photo, 1)
    at_home = [part.data_ptr() for part in tensors(guests(own.networks, own.previewer))]
    monkeypatch.setattr(own, "_guest_room", FAR)
    assert torch.equal(latents(own, photo, 1)[0], expected)
    assert [part.data_ptr() for part in tensors(guests(own.networks, own.previewer))] == at_home
