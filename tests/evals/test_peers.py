import sys
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from skimage import data
from torch import Tensor

from evals import peers
from evals.metrics import psnr
from evals.optional import NotPresentError
from evals.peers import PEERS, bicubic, enlarge, load_real_esrgan, noise_sigma, non_local_means

COMPACT = "realesr-animevideov3-x4"


def photograph(side: int = 96) -> Image.Image:
    return Image.fromarray(data.astronaut()[:256, 128:384]).resize((side, side))


def noisy(picture: Image.Image, sigma: float) -> Image.Image:
    values = np.asarray(picture).astype(np.float64)
    values += np.random.default_rng(0).normal(0.0, sigma, values.shape)
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8))


def nearest(x: Tensor) -> Tensor:
    """Stands in for a x4 network."""
    return x.repeat_interleave(4, 2).repeat_interleave(4, 3)


def blur_and_enlarge(x: Tensor) -> Tensor:
    """Stands in for a x4 network that looks at neighbors."""
    padded = torch.nn.functional.pad(x, (3, 3, 3, 3), mode="replicate")
    return nearest(torch.nn.functional.avg_pool2d(padded, 7, stride=1))


@pytest.mark.parametrize("sigma", [0.01, 0.05, 0.2])
def test_the_noise_of_a_flat_picture_is_estimated(sigma: float) -> None:
    noise = np.random.default_rng(1).normal(0.5, sigma, (257, 300, 3)).astype(np.float32)
    assert noise_sigma(noise) == pytest.approx(sigma, rel=0.05)


def test_non_local_means_removes_noise() -> None:
    clean = photograph()
    lq = noisy(clean, 20.0)
    assert psnr(non_local_means(lq), clean) > psnr(lq, clean) + 2.0


def test_a_picture_without_noise_is_left_as_it_is() -> None:
    flat = Image.new("RGB", (48, 40), "teal")
    assert np.array_equal(np.asarray(non_local_means(flat)), np.asarray(flat))


def test_bicubic_gives_up_detail_for_less_noise() -> None:
    smooth = photograph().filter(ImageFilter.GaussianBlur(2))
    lq = noisy(smooth, 20.0)
    assert psnr(bicubic(lq), smooth) > psnr(lq, smooth) + 2.0
    assert psnr(bicubic(photograph()), photograph()) < 40.0


@pytest.mark.parametrize("size", [(96, 64), (57, 43), (41, 81)])
@pytest.mark.parametrize("name", ["bicubic", "nlm"])
def test_filters_keep_the_size(name: str, size: tuple[int, int]) -> None:
    picture = photograph().resize(size)
    assert PEERS[name].load()(picture).size == size


@pytest.mark.parametrize("shape", [(40, 33, 3), (32, 64, 3), (7, 100, 3)])
def test_tiles_give_what_the_whole_picture_gives(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    values: NDArray[np.float32] = np.random.default_rng(2).random(shape, np.float32)
    whole = enlarge(blur_and_enlarge, values)
    monkeypatch.setattr(peers, "TILE_PX", 16)
    assert whole.shape == (shape[0] * 4, shape[1] * 4, 3)
    assert np.allclose(enlarge(blur_and_enlarge, values), whole, atol=1e-6)


@pytest.mark.parametrize("reduce_first", [False, True])
def test_the_picture_is_enlarged_and_then_brought_back_or_the_other_way_round(
    reduce_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, ...]] = []

    class Network:
        def __call__(self, x: Tensor) -> Tensor:
            sizes.append(tuple(x.shape[2:]))
            return nearest(x) * 3.0 - 1.0  # leaves 0..1, as networks do

    monkeypatch.setattr(peers, "data_file", lambda *_: "")
    monkeypatch.setattr(peers, "load_graph", lambda *_: Network())
    result = load_real_esrgan("any", reduce_first)(Image.new("RGB", (50, 38), (255, 128, 0)))
    assert sizes == [(10, 13) if reduce_first else (38, 50)]
    assert result.size == (50, 38)
    assert result.getpixel((20, 20)) == (255, 129, 0)


def test_the_compact_network_sharpens_a_reduced_photograph() -> None:
    if find_spec(peers.NETWORKS_PACKAGE) is None:
        pytest.skip("the package of the networks is not installed")
    clean = photograph(128)
    small = clean.resize((32, 32), Image.Resampling.BOX)
    lq = small.resize((128, 128), Image.Resampling.BICUBIC)
    restored = load_real_esrgan(COMPACT, reduce_first=True)(lq)
    assert psnr(restored, clean) > psnr(lq, clean) - 1.0
    assert _detail(restored) > 1.1 * _detail(lq)


def _detail(picture: Image.Image) -> float:
    values = np.asarray(picture.convert("L")).astype(np.float64)
    return float(np.abs(np.diff(values, axis=0)).mean() + np.abs(np.diff(values, axis=1)).mean())


def test_bm3d_is_given_values_from_0_to_1_and_the_estimated_noise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: list[tuple[float, float]] = []

    def bm3d_rgb(values: NDArray[np.float32], sigma: float) -> NDArray[np.float32]:
        given.append((float(values.max()), sigma))
        return values / np.float32(2)

    monkeypatch.setitem(sys.modules, "bm3d", SimpleNamespace(bm3d_rgb=bm3d_rgb))
    lq = noisy(Image.new("RGB", (64, 64), (200, 200, 200)), 12.0)
    result = PEERS["bm3d"].load()(lq)
    assert np.abs(np.asarray(result) - np.asarray(lq) / 2.0).max() <= 0.5
    assert given[0][0] == np.asarray(lq).max() / np.float32(255)
    assert given[0][1] == pytest.approx(12.0 / 255.0, rel=0.1)


@pytest.mark.parametrize("name", ["real_esrgan", "real_esrgan_reduced", "real_esrgan_compact"])
def test_a_missing_package_of_networks_names_the_extra(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "NETWORKS_PACKAGE", "a_package_that_is_nowhere")
    with pytest.raises(NotPresentError, match=r"not installed: pip install '\.\[peers\]'"):
        PEERS[name].load()


def test_missing_bm3d_is_reported_with_its_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bm3d", None)
    with pytest.raises(NotPresentError, match="non-commercial"):
        PEERS["bm3d"].load()
