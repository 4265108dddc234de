from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter
from skimage import data

from evals import no_reference
from evals.no_reference import Blind, load_brisque, load_piqe
from evals.optional import NotPresentError

LOADERS = {"pypiqe": load_piqe, "brisque": load_brisque}


@pytest.fixture(params=LOADERS)
def metric(request: pytest.FixtureRequest) -> Blind:
    """Each metric whose package is installed."""
    pytest.importorskip("cv2")
    pytest.importorskip(request.param)
    return LOADERS[request.param]()


def photograph() -> Image.Image:
    return Image.fromarray(data.chelsea()[20:276, 100:356])


def test_a_photograph_beats_its_blurred_copy(metric: Blind) -> None:
    clean = photograph()
    assert metric(clean) + 10.0 < metric(clean.filter(ImageFilter.GaussianBlur(2.5)))


def test_a_photograph_beats_its_noisy_copy(metric: Blind) -> None:
    clean = np.asarray(photograph()).astype(np.float64)
    noise = np.random.default_rng(0).normal(0.0, 30.0, clean.shape)
    noisy = np.clip(np.rint(clean + noise), 0, 255).astype(np.uint8)
    assert metric(clean.astype(np.uint8)) + 10.0 < metric(noisy)


def test_sides_need_not_be_multiples_of_anything(metric: Blind) -> None:
    assert np.isfinite(metric(photograph().crop((0, 0, 101, 83))))


def test_piqe_of_black_is_that_of_any_uniform_picture() -> None:
    pytest.importorskip("cv2")
    pytest.importorskip("pypiqe")
    piqe = load_piqe()
    black, gray = (Image.new("RGB", (64, 64), color) for color in ("black", "gray"))
    assert piqe(black) == piqe(gray) == 100.0


@pytest.mark.parametrize(("module", "load"), LOADERS.items())
def test_a_missing_package_is_reported_with_what_installs_it(
    module: str, load: Callable[[], Blind], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str, install: str) -> None:
        assert name == module
        raise NotPresentError(f"not installed: {install}")

    monkeypatch.setattr(no_reference, "need", refuse)
    with pytest.raises(NotPresentError, match="not installed: pip install"):
        load()
