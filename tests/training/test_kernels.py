import numpy as np
import pytest

from training.kernels import Family, gaussian_kernel, sinc_kernel


@pytest.mark.parametrize("family", ["gaussian", "generalized", "plateau"])
def test_kernels_sum_to_one_and_are_centrally_symmetric(family: Family) -> None:
    kernel = gaussian_kernel(family, (1.7, 0.9), 0.6, 1.4, 6)
    assert kernel.shape == (13, 13)
    assert kernel.sum() == pytest.approx(1.0, abs=1e-5)
    assert np.allclose(kernel, kernel[::-1, ::-1])
    assert kernel.argmax() == kernel.size // 2


def test_a_gaussian_has_the_asked_deviations_along_its_axes() -> None:
    kernel = gaussian_kernel("gaussian", (2.0, 1.0), 0.0, 1.0, 10).astype(np.float64)
    axis = np.arange(-10, 11)
    assert np.sqrt((kernel.sum(axis=0) * axis**2).sum()) == pytest.approx(2.0, rel=1e-3)
    assert np.sqrt((kernel.sum(axis=1) * axis**2).sum()) == pytest.approx(1.0, rel=1e-3)


def test_a_quarter_turn_exchanges_the_axes() -> None:
    upright = gaussian_kernel("gaussian", (2.0, 1.0), 0.0, 1.0, 8)
    turned = gaussian_kernel("gaussian", (2.0, 1.0), np.pi / 2, 1.0, 8)
    assert np.allclose(turned, upright.T, atol=1e-6)


def test_a_sinc_passes_low_and_stops_high_frequencies() -> None:
    kernel = sinc_kernel(np.pi / 2, 10)
    assert kernel.sum() == pytest.approx(1.0, abs=1e-5)
    assert kernel.min() < 0.0
    gain = np.abs(np.fft.fft2(kernel, (64, 64)))
    assert gain[0, 4] == pytest.approx(1.0, abs=0.15)  # pi / 8
    assert gain[0, 28] < 0.1  # 7 pi / 8
