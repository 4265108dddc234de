"""Weights that come to the device only while they are used, for GPUs with little memory."""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from itertools import chain

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


@contextmanager
def hosted(modules: Iterable[nn.Module], place: torch.device | None) -> Generator[None]:
    """Have the modules' weights on `place` while the block lasts; None: they are where they live.

    At home they are kept, and what was on `place` is given up afterwards: nothing is copied back.
    """
    homes: list[tuple[Tensor, Tensor]] = []
    try:
        for tensor in () if place is None else tensors(modules):
            homes.append((tensor, tensor.data))
            tensor.data = tensor.data.to(place)
        yield
    finally:
        for tensor, home in homes:
            tensor.data = home


def tensors(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Parameters and buffers, those that modules share once."""
    held = chain.from_iterable((*own.parameters(), *own.buffers()) for own in modules)
    return list({id(tensor): tensor for tensor in held}.values())
