"""Networks of a described size with random weights: the shape of a model without the model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from engines import memory
from engines.graphs import Graph, step_graphs
from engines.networks import build_networks


def published_step_graphs(
    changes: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32, seed: int = 0
) -> dict[str, Graph]:
    """The step graphs of the published size, with `changes` to the UNet's configuration.

    The previewer is the main network, as a LoRA changes no shape. Encoders are described, not
    built. In float16 the full size takes 9 GB.
    """
    folder, _ = memory.description(memory.PUBLISHED)
    with torch.device("meta"):
        networks = build_networks(replace(folder, unet={**folder.unet, **(changes or {})}))
    generator = torch.Generator().manual_seed(seed)
    for network in (networks.denoiser, networks.aggregator):
        fill(network, generator, dtype)
    return step_graphs(networks, networks.denoiser)


@torch.no_grad()
def fill(network: nn.Module, generator: torch.Generator, dtype: torch.dtype) -> None:
    """Replace every parameter (meta ones, too) by random values of the usual size.

    All differ: an exporter would write equal tensors once.
    """
    for module in network.modules():
        for name, value in list(module.named_parameters(recurse=False)):
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim > 1:
                noise /= value[0].numel() ** 0.5
            else:
                noise = 0.1 * noise + (1.0 if name == "weight" else 0.0)
            setattr(module, name, nn.Parameter(noise.to(dtype), requires_grad=False))
    network.requires_grad_(False).eval()
