"""The picture of a run: which previews are shown and how they are laid out."""

from __future__ import annotations

import pytest
from PIL import Image

from evals.strip import GAP_PX, LABEL_PX, spread, strip


@pytest.mark.parametrize(
    ("count", "wanted", "expected"),
    [(10, 3, [0, 4, 9]), (2, 3, [0, 1]), (5, 1, [0]), (1, 1, [0]), (4, 4, [0, 1, 2, 3])],
)
def test_previews_are_spread_from_the_first_to_the_last(
    count: int, wanted: int, expected: list[int]
) -> None:
    assert spread(count, wanted) == expected


def test_pictures_stand_side_by_side_with_room_for_their_names() -> None:
    frames = [("a", Image.new("RGB", (20, 10), "red")), ("b", Image.new("RGB", (20, 10), "blue"))]
    sheet = strip(frames)
    assert sheet.size == (2 * 20 + GAP_PX, 10 + LABEL_PX)
    assert sheet.getpixel((5, 5)) == (255, 0, 0)
    assert sheet.getpixel((20 + GAP_PX + 5, 5)) == (0, 0, 255)
    assert sheet.getpixel((22, 5)) == (255, 255, 255)
