"""Photographs in a folder, as evaluations read them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

SIDE = 48


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pairs of 48x48: blurred and clean, of light, heavy and light severity."""
    rng = np.random.default_rng(0)
    for side in ("lq", "hq"):
        (tmp_path / side).mkdir()
    for index in range(3):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        clean = small.resize((SIDE, SIDE), Image.Resampling.NEAREST)
        clean.save(tmp_path / "hq" / f"{index}.png")
        clean.filter(ImageFilter.GaussianBlur(1.2)).save(tmp_path / "lq" / f"{index}.png")
    rows = [{"file": f"{i}.png", "severity": s} for i, s in enumerate(["light", "heavy", "light"])]
    (tmp_path / "meta.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path
