"""Tiles of large pictures: coverage, size, blending."""

from __future__ import annotations

import pytest
import torch

from engines.sizes import MULTIPLE_PX
from engines.tiling import Tiling, blend, plan_tiles

SMALL = Tiling(tile_px=256, overlap_px=64)


@pytest.mark.parametrize("size", [(64, 64), (256, 128), (256, 256)])
def test_a_picture_that_fits_one_tile_is_one_tile_of_its_own_size(size: tuple[int, int]) -> None:
    layout = plan_tiles(size, SMALL)
    assert (layout.width, layout.height) == size
    assert layout.corners == ((0, 0),)


@pytest.mark.parametrize("width", range(320, 2049, 64))
def test_tiles_cover_a_side_and_overlap_enough(width: int) -> None:
    layout = plan_tiles((width, 64), SMALL)
    lefts = [left for _, left in layout.corners]
    assert lefts[0] == 0
    assert lefts[-1] + layout.width == width
    assert layout.width <= SMALL.tile_px
    overlaps = [left + layout.width - right for left, right in zip(lefts, lefts[1:], strict=False)]
    # Starts are rounded to the grid, which may cost half of it.
    assert min(overlaps) >= SMALL.overlap_px - MULTIPLE_PX // 2
    assert all(left % MULTIPLE_PX == 0 for left in lefts)


def test_tiles_are_no_larger_than_the_picture_needs() -> None:
    layout = plan_tiles((640, 512), Tiling(tile_px=384, overlap_px=64))
    assert (layout.width, layout.height) == (384, 320)
    assert len(layout.corners) == 4


def test_equal_neighbours_blend_without_a_seam() -> None:
    picture = torch.rand(1, 3, 320, 448, generator=torch.Generator().manual_seed(0))
    layout = plan_tiles((448, 320), SMALL)
    tiles = [
        picture[:, :, top : top + layout.height, left : left + layout.width]
        for top, left in layout.corners
    ]
    torch.testing.assert_close(blend(tiles, layout, (448, 320)), picture)


def test_an_overlap_goes_over_gradually_from_one_tile_to_the_next() -> None:
    layout = plan_tiles((448, 64), SMALL)
    dark, bright = torch.zeros(1, 1, 64, layout.width), torch.ones(1, 1, 64, layout.width)
    row = blend([dark, bright], layout, (448, 64))[0, 0, 32]
    assert row[0] == 0
    assert row[-1] == 1
    assert bool((row.diff() >= 0).all())
    assert float(row.diff().max()) < 0.1
