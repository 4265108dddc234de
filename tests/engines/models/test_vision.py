from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from engines.models.vision import shrink_and_crop
from engines.restorer import Restorer

Photo = Callable[..., Image.Image]


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.mark.parametrize(
    ("size", "scaled", "corner"),
    [
        ((100, 200), (40, 80), (4, 24)),  # portrait
        ((200, 100), (80, 40), (24, 4)),  # landscape
        ((50, 50), (40, 40), (4, 4)),
        ((101, 200), (40, 79), (4, 23)),  # 79.2 is cut, not rounded up
        ((300, 17), (705, 40), (336, 4)),
        ((20, 30), (40, 60), (4, 14)),  # small pictures grow
    ],
)
def test_the_shorter_side_is_resized_and_the_middle_is_cut(
    photo: Photo, size: tuple[int, int], scaled: tuple[int, int], corner: tuple[int, int]
) -> None:
    picture = photo(size)
    left, top = corner
    expected = picture.resize(scaled, Image.Resampling.BICUBIC)
    expected = expected.crop((left, top, left + 32, top + 32))
    ours = shrink_and_crop(picture, 40, 32)
    assert ours.size == (32, 32)
    assert np.array_equal(np.array(ours), np.array(expected))


def test_the_folder_says_how_large_the_crop_is(either: Restorer, photo: Photo) -> None:
    vision = either.networks.vision
    ours, expected = vision.crop_of(photo((64, 90))), shrink_and_crop(photo((64, 90)), 40, 32)
    assert np.array_equal(np.array(ours), np.array(expected))


def test_pixels_are_normalized_channel_by_channel(either: Restorer) -> None:
    gray = Image.new("RGB", (48, 48), (255, 0, 51))
    pixels = either.networks.vision.pixels_of(gray)
    assert pixels.shape == (1, 3, 32, 32)
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    for channel, value in enumerate(expected):
        torch.testing.assert_close(pixels[0, channel], torch.full((32, 32), value))


def test_there_is_one_feature_a_patch_and_one_for_the_whole(either: Restorer) -> None:
    vision = either.networks.vision
    assert vision(torch.zeros(2, 3, 32, 32)).shape == (2, 1 + 16, 16)
    assert vision(torch.zeros(1, 3, 32, 48)).shape == (1, 1 + 24, 16)


def positions(restorer: Restorer, height: int, width: int) -> Tensor:
    """The position table that the network adds for an input of that size."""
    embeddings: Any = restorer.networks.vision.dino.embeddings
    return embeddings.interpolate_pos_encoding(torch.zeros(1, 17, 16), height, width)


def library_positions(restorer: Restorer, height: int, width: int) -> Tensor:
    embeddings: Any = restorer.networks.vision.dino.embeddings
    given = torch.zeros(1, 1 + height // 8 * (width // 8), 16)
    return type(embeddings).interpolate_pos_encoding(embeddings, given, height, width)


def test_a_grid_of_the_tables_own_size_uses_the_table_as_it_is(
    nano_like: Restorer, sdxl_like: Restorer
) -> None:
    for restorer, side in ((nano_like, 32), (sdxl_like, 56)):
        table = restorer.networks.vision.dino.embeddings.position_embeddings
        assert torch.equal(positions(restorer, side, side), table)


def test_another_grid_is_not_what_the_library_makes_of_the_table(sdxl_like: Restorer) -> None:
    ours, library = positions(sdxl_like, 32, 32), library_positions(sdxl_like, 32, 32)
    assert ours.shape == library.shape == (1, 17, 16)
    assert torch.equal(ours[:, 0], library[:, 0])
    assert float((ours - library).abs().max()) > 1e-2


def cubic(distance: float, a: float = -0.75) -> float:
    """Weight of a sample at a distance in columns (Keys 1981, torch's choice of a)."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def test_the_table_is_resized_by_a_factor_a_tenth_of_a_patch_too_large(
    sdxl_like: Restorer, monkeypatch: pytest.MonkeyPatch, random_tensor: Callable[..., Tensor]
) -> None:
    column = random_tensor(7)
    grid = column.repeat(7)[None, :, None].expand(1, 49, 16)
    table = torch.nn.Parameter(torch.cat([torch.zeros(1, 1, 16), grid], dim=1))
    embeddings: Any = sdxl_like.networks.vision.dino.embeddings
    monkeypatch.setitem(embeddings._parameters, "position_embeddings", table)
    resized = positions(sdxl_like, 32, 32)[0, 1:5, 0]
    for index in (1, 2):  # those whose four neighbors are all inside the table
        place = (index + 0.5) * 7 / 4.1 - 0.5
        expected = sum(cubic(place - i) * float(value) for i, value in enumerate(column))
        assert float(resized[index]) == pytest.approx(expected, abs=1e-4)


def test_pictures_of_a_batch_do_not_see_each_other(either: Restorer, photo: Photo) -> None:
    vision = either.networks.vision
    rows = torch.cat([vision.pixels_of(photo((48, 48), seed)) for seed in range(3)])
    together = vision(rows)
    alone = torch.cat([vision(row) for row in rows.split(1)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
