"""Bring the colours of a restoration back to those of its input. Pure functions on (B, 3, H, W)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from engines.params import ColorMatch

_LEVELS = 5
_EPS = 1e-5


def match_color(result: Tensor, source: Tensor, how: ColorMatch) -> Tensor:
    """`result` with the colours of `source` (same shape, any common value range)."""
    match how:
        case ColorMatch.NONE:
            return result
        case ColorMatch.WAVELET:
            return result - low_frequencies(result) + low_frequencies(source)
        case ColorMatch.ADAIN:
            return _with_statistics_of(result, source)


def low_frequencies(image: Tensor) -> Tensor:
    """What is left after five levels of an a-trous 3x3 binomial blur."""
    line = torch.tensor([0.25, 0.5, 0.25], dtype=image.dtype, device=image.device)
    kernel = (line[:, None] * line).expand(image.shape[1], 1, 3, 3)
    for level in range(_LEVELS):
        reach = 2**level
        padded = F.pad(image, (reach,) * 4, mode="replicate")
        image = F.conv2d(padded, kernel, dilation=reach, groups=image.shape[1])
    return image


def _with_statistics_of(result: Tensor, source: Tensor) -> Tensor:
    axes = (2, 3)
    mean, std = result.mean(axes, keepdim=True), result.std(axes, keepdim=True) + _EPS
    wanted = source.std(axes, keepdim=True) + _EPS
    return (result - mean) / std * wanted + source.mean(axes, keepdim=True)
