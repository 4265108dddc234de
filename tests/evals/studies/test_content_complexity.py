"""How busy a picture is, and what that does to the gain."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import engines
from evals.studies.content_complexity import (
    Sample,
    draw,
    findings,
    gradient_energy,
    jpeg_bits,
    measure,
    table,
    thirds,
)
from evals.studies.pictures import Tile
from evals.studies.study import Bench


def test_a_ramp_has_the_energy_of_its_slope() -> None:
    ramp = np.tile(np.arange(0, 96, 3, dtype=np.uint8), (32, 1))
    assert gradient_energy(Image.fromarray(ramp)) == pytest.approx(9)
    assert gradient_energy(Image.new("RGB", (32, 32), "red")) == 0


def test_noise_takes_more_bits_than_a_plain_picture() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert jpeg_bits(Image.fromarray(noise)) > 2 * jpeg_bits(Image.new("RGB", (64, 64), "red"))


def samples(sign: int) -> list[Sample]:
    return [Sample(str(i), i, i / 2, 30 - i, 0.8, 31 - i + sign * i / 10, 0.9) for i in range(1, 8)]


def test_parts_are_equal_and_ordered() -> None:
    parts = thirds(list(reversed(samples(1))))
    assert [len(own) for own in parts.values()] == [2, 2, 3]
    assert [s.gradient for s in parts["plain"]] == [1, 2]
    assert [row[0] for row in table(samples(1)).rows] == ["plain", "medium", "busy"]
    assert len(draw(samples(1)).axes) == 2


def test_the_finding_follows_the_figures() -> None:
    assert "there is a strong positive rank correlation (1.00)" in findings(samples(1))[0]
    assert "there is a strong negative rank correlation (-1.00)" in findings(samples(-1))[0]
    assert "PSNR rises on 100%" in findings(samples(1))[-1]


@pytest.mark.slow
def test_every_picture_is_one_sample(restorer: engines.Restorer, tiles: list[Tile]) -> None:
    found = measure(Bench(restorer, tiles, "fast"))
    assert [s.picture for s in found] == [tile.name for tile in tiles]
    assert all(s.psnr_gain != 0 for s in found)
