"""Clean pictures of the studies, and what damages them: one kind of damage at one level.

Training draws its degradations at random: kinds, order and strengths together, with jitter. A study
needs one thing to change at a time, so here every kind is applied alone, exactly at its level, over
the ranges that training uses; the noise of a picture is the same pattern at every level.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from evals.strip import spread
from training.degrade import DegradationConfig

LEVELS = (0.2, 0.4, 0.6, 0.8, 1.0)
MIXED_LEVELS = (0.2, 0.5, 0.8)  # light, medium and heavy where a study is not about severity
MIX = "all"
TILE_PX = 128

_RANGES = DegradationConfig()


@dataclass(frozen=True, slots=True)
class Tile:
    """A clean square cut out of a photograph."""

    name: str
    clean: Image.Image


@dataclass(frozen=True, slots=True)
class Case:
    """A tile and its damaged twin; level is 0 (none) to 1 (the worst that training draws)."""

    picture: str
    kind: str
    level: float
    clean: Image.Image
    damaged: Image.Image


def load_tiles(photos: Path, count: int, side_px: int = TILE_PX) -> list[Tile]:
    """Cut `hq/*.png` into squares and take `count` of them, spread over the photographs.

    FileNotFoundError where there is no photograph of that size.
    """
    tiles: list[Tile] = []
    for path in sorted((photos / "hq").glob("*.png")):
        with Image.open(path) as opened:
            tiles += cut(path.stem, opened.convert("RGB"), side_px)
    if not tiles:
        raise FileNotFoundError(f"no hq/*.png of {side_px} px or more in {photos}")
    return [tiles[index] for index in spread(len(tiles), count)]


def cut(name: str, photograph: Image.Image, side_px: int) -> list[Tile]:
    """All whole squares of a photograph, row by row."""
    columns, rows = photograph.width // side_px, photograph.height // side_px
    corners = [(x * side_px, y * side_px) for y in range(rows) for x in range(columns)]
    return [
        Tile(f"{name}-{index}", photograph.crop((x, y, x + side_px, y + side_px)))
        for index, (x, y) in enumerate(corners)
    ]


def grid(tiles: Sequence[Tile], kinds: Sequence[str], levels: Sequence[float]) -> list[Case]:
    """Every tile with every kind of damage at every level."""
    return [
        Case(tile.name, kind, level, tile.clean, damage(tile, kind, level))
        for kind in kinds
        for level in levels
        for tile in tiles
    ]


def damage(tile: Tile, kind: str, level: float) -> Image.Image:
    """Damage a tile; "all" is every kind in the order of a camera. ValueError for another kind."""
    if kind not in (*_DAMAGES, MIX):
        raise ValueError(f"kind is {kind!r}, known: {', '.join(KINDS)}")
    rng = np.random.default_rng(zlib.crc32(tile.name.encode()))
    picture = tile.clean
    for name in _DAMAGES if kind == MIX else (kind,):
        picture = _DAMAGES[name](picture, level, rng)
    return picture.resize(tile.clean.size, Image.Resampling.BICUBIC)


_Damage = Callable[[Image.Image, float, np.random.Generator], Image.Image]


def _blur(picture: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    del rng
    sigma = _between(_RANGES.blur_sigma_px, level)
    return _picture(gaussian_filter(_levels(picture), (sigma, sigma, 0)))


def _downscale(picture: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    """Make it smaller; `damage` enlarges at the end, so that what follows happens when small."""
    del rng
    factor = _between(_RANGES.downscale, level)
    size = (round(picture.width / factor), round(picture.height / factor))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _noise(picture: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    sigma = _between(_RANGES.noise_sigma_255, level)
    levels = _levels(picture)
    return _picture(levels + sigma * rng.standard_normal(levels.shape))


def _jpeg(picture: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    del rng
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=round(_between(_RANGES.jpeg_quality, level)))
    return Image.open(buffer).convert("RGB")


_DAMAGES: Mapping[str, _Damage] = {
    "blur": _blur,
    "downscale": _downscale,
    "noise": _noise,
    "jpeg": _jpeg,
}
KINDS = (*_DAMAGES, MIX)


def _between(ends: tuple[float, float], level: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * level


def _levels(picture: Image.Image) -> NDArray[np.float64]:
    return np.asarray(picture, dtype=np.float64)


def _picture(levels: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.clip(np.round(levels), 0, 255).astype(np.uint8))
