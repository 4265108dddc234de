"""Tiles of the studies and their damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evals.metrics import psnr
from evals.studies.pictures import KINDS, LEVELS, Tile, cut, damage, grid, load_tiles


def test_photographs_are_cut_into_whole_squares_row_by_row() -> None:
    levels = np.zeros((130, 200, 3), np.uint8)
    levels[:64, 64:128] = 1
    levels[64:128, :64] = 2
    tiles = cut("photo", Image.fromarray(levels), 64)
    assert [tile.name for tile in tiles] == [f"photo-{index}" for index in range(6)]
    assert {tile.clean.size for tile in tiles} == {(64, 64)}
    assert [int(np.asarray(tile.clean).max()) for tile in tiles] == [0, 1, 0, 2, 0, 0]


def test_tiles_are_spread_over_the_photographs(photos: Path) -> None:
    assert [tile.name for tile in load_tiles(photos, 2)] == ["a-0", "b-3"]
    assert len(load_tiles(photos, 100)) == 8


def test_a_folder_without_photographs_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no hq/"):
        load_tiles(tmp_path, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_more_of_a_kind_damages_more(kind: str) -> None:
    coarse = np.random.default_rng(3).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    tile = Tile("busy", Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC))
    quality = [psnr(damage(tile, kind, level), tile.clean) for level in LEVELS]
    assert quality == sorted(quality, reverse=True)
    assert quality[0] - quality[-1] > 1
    assert damage(tile, kind, 1.0).size == tile.clean.size


def test_damage_repeats_and_differs_between_pictures(tiles: list[Tile]) -> None:
    flat = Image.new("RGB", (32, 32), "gray")
    first, second = Tile("one", flat), Tile("two", flat)
    once, again, other = (damage(tile, "noise", 0.5).tobytes() for tile in (first, first, second))
    assert once == again
    assert once != other
    with pytest.raises(ValueError, match="kind is 'rain'"):
        damage(tiles[0], "rain", 0.5)


def test_the_grid_has_every_kind_at_every_level(tiles: list[Tile]) -> None:
    cases = grid(tiles[:2], ["blur", "jpeg"], [0.1, 0.9])
    assert [(case.picture, case.kind, case.level) for case in cases[:3]] == [
        ("tile-0", "blur", 0.1),
        ("tile-1", "blur", 0.1),
        ("tile-0", "blur", 0.9),
    ]
    assert len(cases) == 8
