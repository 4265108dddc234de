"""Matrices of one byte a value, for GPUs with little memory."""

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from engines.residency import tensors

FORMAT: Final = torch.float8_e4m3fn  # 4 bits of exponent, 3 of mantissa
_ENDS: Final = ("conv_in", "conv_out")  # the first and the last layer stay as they are


def store_in_one_byte(network: nn.Module, kept: Iterable[nn.Module] = ()) -> None:
    """Keep the matrices of linear layers and convolutions as float8, a scale for each output.

    A weight is made again whenever it is read, to a sixteenth of each value but the smallest, and
    computes in the precision that it had. `kept`: parts whose weights stay.
    """
    staying = {id(weight) for weight in tensors(kept)}
    whole: Any = network  # the type of its modules is only partly known
    for name, layer in list(whole.named_modules()):
        if not isinstance(layer, nn.Linear | nn.Conv2d) or name.endswith(_ENDS):
            continue
        weight = layer.weight
        if id(weight) in staying:
            continue
        stored = _OneByte(weight)
        layer.weight = nn.Parameter(stored.of(weight), requires_grad=False)
        register_parametrization(layer, "weight", stored, unsafe=True)


class _OneByte(nn.Module):
    """From what is stored, (O, ...) in float8, to a weight."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        largest = weight.float().flatten(1).abs().amax(dim=1).clamp(min=1e-12)
        scale = (largest / torch.finfo(FORMAT).max).view(-1, *(1,) * (weight.ndim - 1))
        self.scale = nn.Buffer(scale)  # in float32, as small ones vanish in float16
        self.dtype = weight.dtype

    def of(self, weight: Tensor) -> Tensor:
        """What is stored of a weight."""
        return (weight.float() / self.scale).to(FORMAT)

    def forward(self, stored: Tensor) -> Tensor:
        return (stored.float() * self.scale).to(self.dtype)
