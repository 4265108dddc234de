import re

import pytest

from engines.sizes import (
    MULTIPLE_PX,
    PUBLISHED_MAX_SIDE_PX,
    PUBLISHED_MIN_SIDE_PX,
    WorkLimits,
    official_work_size,
    padded_size,
    scaled_size,
)

Size = tuple[int, int]
AS_IT_COMES = WorkLimits(None, None)


@pytest.mark.parametrize(
    ("size", "work"),
    [
        ((512, 512), (768, 768)),
        ((640, 480), (1024, 768)),  # 768 / 480 = 1.6 for both sides
        ((480, 640), (768, 1024)),
        ((768, 768), (768, 768)),
        ((1024, 1024), (1024, 1024)),
        ((1025, 1025), (1024, 1024)),
        ((800, 800), (768, 768)),  # floored to a multiple of 64
        ((769, 1023), (768, 960)),
        ((1000, 700), (1024, 704)),  # up to 1097 x 768, then down to 1024 x 717
        ((1920, 1080), (1024, 576)),
        ((4000, 3000), (1024, 768)),
        ((3000, 1000), (1024, 320)),  # 1024 x 341
        ((3000, 937), (1024, 320)),  # 319.83 is rounded, not cut, before the floor
        ((350, 379), (768, 832)),  # 831.63 as well
        ((100, 100), (768, 768)),
        ((64, 1024), (64, 1024)),  # up to 768 x 12288, then down again
    ],
)
def test_the_official_work_size_of_a_picture(size: Size, work: Size) -> None:
    assert official_work_size(size, (768, 1024)) == (work, size)


def test_the_published_limits_are_the_default() -> None:
    default = official_work_size((640, 480))
    assert default == official_work_size((640, 480), (PUBLISHED_MIN_SIDE_PX, PUBLISHED_MAX_SIDE_PX))


@pytest.mark.parametrize("size", [(119, 1970), (1970, 119), (1, 900)])
def test_a_picture_too_elongated_for_the_official_rule_is_refused(size: Size) -> None:
    expected = f"picture of {size[0]}x{size[1]} px is too elongated"
    with pytest.raises(ValueError, match=re.escape(expected)):
        official_work_size(size)


@pytest.mark.parametrize(
    ("width", "height", "work", "out"),
    [
        (800, None, (1024, 768), (800, 600)),
        (None, 900, (1024, 768), (1200, 900)),
        (900, 900, (896, 896), (900, 900)),  # both: the aspect is given up
        (None, None, (1024, 768), (400, 300)),
    ],
)
def test_an_asked_size_is_the_output_and_decides_the_work_size(
    width: int | None, height: int | None, work: Size, out: Size
) -> None:
    assert official_work_size((400, 300), width=width, height=height) == (work, out)


def test_other_limits_are_followed() -> None:
    assert official_work_size((512, 512), (256, 384)) == ((384, 384), (512, 512))


@pytest.mark.parametrize("size", [(500, 700), (333, 777), (2000, 1111)])
def test_official_work_sides_are_multiples_of_64_within_the_limit(size: Size) -> None:
    work, _ = official_work_size(size)
    assert all(side % MULTIPLE_PX == 0 and side <= PUBLISHED_MAX_SIDE_PX for side in work)


@pytest.mark.parametrize(
    ("size", "scaled"),
    [
        ((512, 512), (768, 768)),
        ((640, 480), (1024, 768)),
        ((800, 900), (800, 900)),
        ((4000, 1000), (1024, 256)),  # the longest side wins
        ((100, 3000), (34, 1024)),
        ((1, 10_000), (1, 1024)),  # no side vanishes
    ],
)
def test_pictures_are_scaled_into_the_published_limits(size: Size, scaled: Size) -> None:
    assert scaled_size(size, WorkLimits()) == scaled


@pytest.mark.parametrize("size", [(16, 16), (119, 1970), (5000, 4000)])
def test_without_limits_pictures_stay_as_they_come(size: Size) -> None:
    assert scaled_size(size, AS_IT_COMES) == size


def test_the_lower_limit_alone_only_enlarges() -> None:
    limits = WorkLimits(min_side_px=100, max_side_px=None)
    assert [scaled_size(size, limits) for size in ((50, 200), (150, 300))] == [
        (100, 400),
        (150, 300),
    ]


def test_the_upper_limit_alone_only_reduces() -> None:
    limits = WorkLimits(min_side_px=None, max_side_px=100)
    assert [scaled_size(size, limits) for size in ((50, 200), (50, 60))] == [(25, 100), (50, 60)]


@pytest.mark.parametrize(
    ("size", "padded"),
    [
        ((64, 64), (64, 64)),
        ((65, 64), (128, 64)),
        ((1, 127), (64, 128)),
        ((1024, 769), (1024, 832)),
        ((4096, 4097), (4096, 4160)),
    ],
)
def test_padding_rounds_each_side_up_to_a_multiple_of_64(size: Size, padded: Size) -> None:
    assert padded_size(size) == padded
