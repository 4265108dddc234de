"""What the tests of studies share: the shipped model and small pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import engines
from evals.studies.pictures import Tile

SIDE_PX = 64


def picture(seed: int) -> Image.Image:
    """Smooth colors with an edge, different for every seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    smooth = np.array(coarse.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC))
    smooth[:, 20 + seed :] //= 2
    return Image.fromarray(smooth)


@pytest.fixture(scope="session")
def tiles() -> list[Tile]:
    return [Tile(f"tile-{seed}", picture(seed)) for seed in range(3)]


@pytest.fixture(scope="session")
def restorer() -> engines.Restorer:
    return engines.load("nano")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photographs of four tiles each."""
    folder = tmp_path / "photos" / "hq"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(5)
    for name in ("a", "b"):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder.parent
