"""Whether words are followed, and what is said of it."""

from __future__ import annotations

import pytest
from PIL import Image

import engines
from evals.studies.pictures import Tile
from evals.studies.semantic_editing import (
    Sample,
    by_word,
    draw,
    findings,
    followed,
    measure_words,
    measures_of,
    table,
)
from evals.studies.study import Bench
from training.captions import DIRECTIONS


def samples(moved: float, ssim: float = 0.9) -> list[Sample]:
    return [Sample(str(i), word, moved, ssim) for word in DIRECTIONS for i in range(3)]


def test_measures_are_those_of_the_picture() -> None:
    assert measures_of(Image.new("RGB", (8, 8), "white")).brightness == pytest.approx(1.0)
    assert measures_of(Image.new("L", (8, 8), 0)).brightness == 0.0


def test_a_word_is_followed_by_the_pictures_that_went_its_way() -> None:
    found = [Sample("a", "dark", 0.1, 1.0), Sample("b", "dark", -0.1, 1.0)]
    assert followed(found) == 0.5
    assert by_word(found)["dark"] == found


def test_every_word_is_a_row_and_a_place_on_the_plot() -> None:
    found = table(samples(0.05))
    assert [row[:3] for row in found.rows] == [[word, "100%", "100%"] for word in DIRECTIONS]
    assert len(draw(samples(0.05)).axes[0].get_xticks()) == len(DIRECTIONS)


def test_the_findings_follow_the_figures() -> None:
    strong, faint, wrong = (findings(samples(moved)) for moved in (0.05, 0.001, -0.05))
    assert strong[0].startswith(f"{len(DIRECTIONS)} of {len(DIRECTIONS)} words are followed")
    assert "hardly seen" in faint[1]
    assert "hardly seen" not in strong[1]
    assert wrong[0].startswith("0 of")
    assert findings(samples(0.05, ssim=0.5))[2].startswith("Structure does not stay")


@pytest.mark.slow
def test_every_picture_meets_every_word(restorer: engines.Restorer, tiles: list[Tile]) -> None:
    found = measure_words(Bench(restorer, tiles, "fast"))
    assert len(found) == len(tiles) * len(DIRECTIONS)
    assert any(s.moved != 0 for s in found)
