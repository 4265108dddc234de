"""Large pictures as overlapping tiles: where they lie, how they are blended. Pure, in pixels."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.sizes import MULTIPLE_PX


@dataclass(frozen=True, slots=True)
class Tiling:
    """Largest side of a tile, and how much neighbours share at least."""

    tile_px: int = 1024
    overlap_px: int = 128


@dataclass(frozen=True, slots=True)
class Layout:
    """Equal tiles that cover a picture; corners are (top, left)."""

    height: int  # of a tile
    width: int
    corners: tuple[tuple[int, int], ...]


def plan_tiles(size: tuple[int, int], tiling: Tiling) -> Layout:
    """Cover (width, height), multiples of 64 px, with as few and as small tiles as possible."""
    width, lefts = _along(size[0], tiling)
    height, tops = _along(size[1], tiling)
    return Layout(height, width, tuple((top, left) for top in tops for left in lefts))


def blend(tiles: Sequence[Tensor], layout: Layout, size: tuple[int, int]) -> Tensor:
    """Weighted mean of tiles (B, C, h, w) on a (width, height) canvas; rims weigh least."""
    like = tiles[0]
    canvas = like.new_zeros(*like.shape[:2], size[1], size[0])
    weights = like.new_zeros(1, 1, size[1], size[0])
    window = _ramp(layout.height, like)[:, None] * _ramp(layout.width, like)[None]
    for tile, (top, left) in zip(tiles, layout.corners, strict=True):
        rows, columns = slice(top, top + layout.height), slice(left, left + layout.width)
        canvas[:, :, rows, columns] += tile * window
        weights[:, :, rows, columns] += window
    return canvas / weights


def _along(side: int, tiling: Tiling) -> tuple[int, list[int]]:
    """Tile side and starts along one axis; tiles are spread evenly, on multiples of 64 px."""
    if side <= tiling.tile_px:
        return side, [0]
    stride = tiling.tile_px - tiling.overlap_px
    count = math.ceil((side - tiling.overlap_px) / stride)
    needed = (side + (count - 1) * tiling.overlap_px) / count
    tile = math.ceil(needed / MULTIPLE_PX) * MULTIPLE_PX
    step = (side - tile) / (count - 1)
    # Starts on a grid that every latent codec and network level divides.
    return tile, [
        min(round(step * i / MULTIPLE_PX) * MULTIPLE_PX, side - tile) for i in range(count)
    ]


def _ramp(side: int, like: Tensor) -> Tensor:
    """Half a sine over a side, never zero."""
    places = torch.arange(side, device=like.device, dtype=like.dtype) + 0.5
    return torch.sin(places / side * math.pi)
