"""Weights that come to the device only while they are used, for GPUs with little memory."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from engines.models.denoiser import Denoiser
from engines.networks import Networks


def guests(networks: Networks, previewer: Denoiser) -> list[nn.Module]:
    """What no step reads: encoders, resamplers, and projections of keys and values."""
    return [
        networks.text,
        networks.vision.dino,
        *networks.codec.encoding_parts(),
        *networks.denoiser.remembering_parts(),
        *previewer.remembering_parts(),
    ]


def host(modules: Iterable[nn.Module], place: torch.device) -> None:
    """From now on each layer's own weights come to `place` for every call of it, and for no longer.

    At home they are kept, and what was on `place` is given up after the call: nothing is copied
    back. So the largest layer is all that is there at a time.
    """
    for layer in {id(layer): layer for own in modules for layer in own.modules()}.values():
        guest = _Guest(_own(layer), place)
        layer.register_forward_pre_hook(guest.come)
        layer.register_forward_hook(guest.go, always_call=True)


def tensors(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Parameters and buffers, those that modules share once."""
    held = chain.from_iterable((*own.parameters(), *own.buffers()) for own in modules)
    return list({id(tensor): tensor for tensor in held}.values())


class _Guest:
    """The weights of one layer on their visits."""

    def __init__(self, weights: list[Tensor], place: torch.device) -> None:
        self._weights = weights
        self._place = place
        self._homes: list[tuple[Tensor, Tensor]] = []

    def come(self, *_: Any) -> None:
        """Before the layer's `forward`."""
        for tensor in self._weights:
            self._homes.append((tensor, tensor.data))
            tensor.data = tensor.data.to(self._place)

    def go(self, *_: Any) -> None:
        """After it, however it ended."""
        while self._homes:
            tensor, home = self._homes.pop()
            tensor.data = home


def _own(layer: nn.Module) -> list[Tensor]:
    return [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
