import math
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from evals.metrics import LOW_IS_GOOD, METRICS, measure_all, psnr, ssim
from evals.piq_import import load_piq


def scene(seed: int = 0, side: int = 64) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))


def test_equal_pictures_get_the_best_value_of_every_metric() -> None:
    scores = measure_all(scene(), scene())
    assert scores["psnr"] == math.inf
    assert scores["ssim"] == 1.0
    assert scores["gmsd"] == pytest.approx(0.0, abs=1e-6)
    for name in ("fsim", "haarpsi", "vifp"):
        assert scores[name] == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("offset", [1, 5, 25])
def test_psnr_of_a_constant_offset_has_its_closed_form(offset: int) -> None:
    picture = np.full((48, 48, 3), 100, np.uint8)
    shifted = picture + np.uint8(offset)
    assert psnr(shifted, picture) == pytest.approx(20.0 * math.log10(255.0 / offset))


def test_ssim_of_two_flat_pictures_has_its_closed_form() -> None:
    a, b, c1 = 100.0, 150.0, (0.01 * 255.0) ** 2
    expected = (2.0 * a * b + c1) / (a * a + b * b + c1)
    flat = [np.full((48, 48, 3), int(value), np.uint8) for value in (a, b)]
    assert ssim(flat[0], flat[1]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_orders_light_before_heavy_blur(name: str) -> None:
    target = Image.fromarray(scene(1, 96))
    light, heavy = (target.filter(ImageFilter.GaussianBlur(r)) for r in (0.7, 3.0))
    better, worse = METRICS[name](light, target), METRICS[name](heavy, target)
    assert better < worse if name in LOW_IS_GOOD else better > worse


def test_arrays_and_pil_pictures_score_alike() -> None:
    a, b = scene(0), scene(1)
    assert measure_all(a, b) == measure_all(Image.fromarray(a), Image.fromarray(b))


@pytest.mark.parametrize("name", METRICS)
def test_different_or_too_small_sizes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="sizes differ"):
        METRICS[name](scene(side=64), scene(side=80))
    with pytest.raises(ValueError, match="41 px"):
        METRICS[name](scene(side=40), scene(side=40))


def test_float_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        psnr(np.zeros((48, 48, 3)), scene())  # pyright: ignore[reportArgumentType]


def test_piq_is_imported_without_leaving_a_stand_in_behind() -> None:
    before = sys.modules.get("torchvision")
    assert callable(load_piq().fsim)
    assert sys.modules.get("torchvision") is before
    assert load_piq() is load_piq()
