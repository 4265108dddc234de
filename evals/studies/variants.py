"""The model with one thing changed, for ablations.

Another previewer is another `Restorer` of the same networks. What changes inside a network changes
through torch's forward hooks, which are gone again after the `with` block.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

import engines


def without_distillation(restorer: engines.Restorer) -> engines.Restorer:
    """The same model whose references come from the main network, without the previewer's LoRA."""
    networks = restorer.networks
    return engines.Restorer(networks, networks.denoiser, restorer.alphas, restorer.settings)


@contextmanager
def fixed_timestep(restorer: engines.Restorer, timestep: float) -> Generator[None]:
    """The previewer's time embedding always says `timestep`; its input stays as noisy as it is."""

    def replace(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (torch.full_like(args[0], timestep), *args[1:])

    handle = restorer.previewer.unet.time_proj.register_forward_pre_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def reference_unseen(restorer: engines.Restorer) -> Generator[None]:
    """The aggregator gets the degraded latents in place of the reference."""

    def replace(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        degraded, _reference, emb = args
        return degraded, degraded, emb

    handle = restorer.networks.aggregator.register_forward_pre_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def silent_aggregator(restorer: engines.Restorer) -> Generator[None]:
    """The aggregator runs, and everything it says is zero."""

    def silence(_module: nn.Module, _args: Any, residuals: list[Tensor]) -> list[Tensor]:
        return [torch.zeros_like(residual) for residual in residuals]

    handle = restorer.networks.aggregator.register_forward_hook(silence)
    try:
        yield
    finally:
        handle.remove()
