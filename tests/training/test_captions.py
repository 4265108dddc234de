from dataclasses import fields

import numpy as np
import pytest
from numpy.typing import NDArray

from training.captions import (
    ATTRIBUTES,
    DIRECTIONS,
    FALLBACK,
    MAX_ATTRIBUTES,
    Measures,
    caption,
    describe,
    measure,
    movement,
)

PLAIN = {
    "brightness": 0.45,
    "contrast": 0.15,
    "chroma": 0.15,
    "warmth": 0.0,
    "gradient": 0.03,
    "lights": 0.1,
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, FALLBACK),
        ({"brightness": 0.7}, "bright"),
        ({"brightness": 0.2, "lights": 0.0}, "dark"),
        ({"brightness": 0.2, "lights": 0.01}, "night"),
        ({"brightness": 0.25, "lights": 0.01}, "dark"),
        ({"warmth": 0.1}, "warm"),
        ({"warmth": -0.1}, "cool"),
        ({"chroma": 0.35}, "colorful"),
        ({"chroma": 0.02}, "monochrome"),
        ({"warmth": 0.2, "chroma": 0.35}, "sunset"),
        ({"warmth": 0.2, "chroma": 0.35, "brightness": 0.7}, "bright, colorful, warm"),
        ({"contrast": 0.3}, "high contrast"),
        ({"contrast": 0.05}, "low contrast"),
        ({"gradient": 0.1}, "detailed"),
        ({"gradient": 0.005}, "soft"),
        (
            {"brightness": 0.7, "chroma": 0.02, "contrast": 0.05, "gradient": 0.005},
            "bright, monochrome, low contrast, soft",
        ),
    ],
)
def test_measures_become_words_in_a_fixed_order(changes: dict[str, float], expected: str) -> None:
    assert describe(Measures(**{**PLAIN, **changes})) == expected


def test_a_caption_has_at_most_four_known_words() -> None:
    everything = Measures(0.7, 0.3, 0.35, 0.1, 0.1, 0.5)
    words = describe(everything).split(", ")
    assert len(words) == MAX_ATTRIBUTES
    assert [w for w in ATTRIBUTES if w in words] == words


def filled(*rgb: float) -> NDArray[np.float32]:
    return np.broadcast_to(np.array(rgb, np.float32), (32, 32, 3)).copy()


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (filled(0.9, 0.9, 0.9), {"bright", "monochrome", "low contrast", "soft"}),
        (filled(0.05, 0.05, 0.05), {"dark", "monochrome", "low contrast", "soft"}),
        (filled(0.3, 0.4, 0.5), {"cool", "low contrast", "soft"}),
        (filled(0.7, 0.35, 0.15), {"sunset", "low contrast", "soft"}),
    ],
)
def test_flat_pictures_are_described_by_their_color(
    picture: NDArray[np.float32], words: set[str]
) -> None:
    assert set(caption(picture).split(", ")) == words


def test_lights_in_the_dark_are_a_night() -> None:
    picture = filled(0.05, 0.05, 0.08)
    picture[4:8, 4:8] = 1.0
    assert caption(picture).startswith("night")
    assert "dark" not in caption(picture)


def test_a_checkerboard_is_detailed_and_of_high_contrast() -> None:
    board = np.indices((32, 32)).sum(axis=0) % 2
    picture = np.repeat(board[..., None].astype(np.float32), 3, axis=2)
    assert caption(picture) == "monochrome, high contrast, detailed"


def test_a_word_is_followed_by_moving_its_measure_its_way() -> None:
    dim, lit = (measure(np.full((4, 4, 3), level, np.float32)) for level in (0.25, 0.75))
    assert movement("bright", dim, lit) == pytest.approx(0.5)
    assert movement("dark", dim, lit) == pytest.approx(-0.5)
    assert movement("warm", dim, lit) == pytest.approx(0.0)


def test_directions_are_of_attributes_and_measures() -> None:
    assert set(DIRECTIONS) <= set(ATTRIBUTES)
    assert {name for name, _ in DIRECTIONS.values()} <= {f.name for f in fields(Measures)}
