"""The blur has a known gain at every frequency, so sinusoids show what is kept and what is not."""

import math

import pytest
import torch
from torch import Tensor

from engines.color import low_frequencies, match_color
from engines.params import ColorMatch

BORDER_PX = 31  # 1 + 2 + 4 + 8 + 16: how far the five levels reach


def wave(period_px: float, width: int = 128, height: int = 4) -> Tensor:
    """cos along the width, (1, 3, height, width)."""
    x = torch.arange(width, dtype=torch.float64)
    return torch.cos(2 * math.pi * x / period_px).expand(1, 3, height, width)


def inner(image: Tensor) -> Tensor:
    """The columns that no border reaches."""
    return image[..., BORDER_PX:-BORDER_PX]


def gain(period_px: float) -> float:
    """Of five binomial levels: the product of cos^2(2^level w / 2), summed up by sines."""
    half = math.pi / period_px
    return (math.sin(32 * half) / (32 * math.sin(half))) ** 2


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("value", [-1.0, 0.0, 0.37])
@pytest.mark.parametrize("size", [(64, 64), (5, 3), (1, 1)])
def test_the_low_frequencies_of_a_constant_are_that_constant_up_to_the_borders(
    value: float, size: tuple[int, int]
) -> None:
    image = torch.full((1, 3, *size), value)
    torch.testing.assert_close(low_frequencies(image), image)


@pytest.mark.parametrize("period_px", [2, 4, 8, 16, 32])
def test_waves_of_the_blurred_octaves_vanish(period_px: int) -> None:
    assert inner(low_frequencies(wave(period_px))).abs().max() < 1e-12


@pytest.mark.parametrize("period_px", [12, 48, 100, 512, 4096])
def test_a_wave_keeps_its_shape_and_takes_the_known_gain(period_px: int) -> None:
    expected = gain(period_px) * inner(wave(period_px))
    torch.testing.assert_close(inner(low_frequencies(wave(period_px))), expected)


def test_both_directions_are_blurred_alike() -> None:
    image = noise(1, 3, 40, 40)
    torch.testing.assert_close(low_frequencies(image.mT), low_frequencies(image).mT)


def test_channels_and_rows_do_not_mix() -> None:
    image = torch.zeros(2, 3, 40, 40)
    image[1, 2] = noise(40, 40)
    low = low_frequencies(image)
    assert low[1, 2].abs().max() > 0
    assert low[0].abs().max() == low[1, :2].abs().max() == 0


def test_wavelet_keeps_the_high_frequencies_of_the_result() -> None:
    result, source = wave(8) + 0.4, wave(4) - 0.2
    matched = match_color(result, source, ColorMatch.WAVELET)
    torch.testing.assert_close(inner(matched), inner(wave(8) - 0.2))


def test_wavelet_takes_the_slow_changes_of_the_source() -> None:
    result, source = wave(8), wave(4) + 0.5 * wave(512)
    matched = match_color(result, source, ColorMatch.WAVELET)
    torch.testing.assert_close(inner(matched), inner(wave(8) + gain(512) * 0.5 * wave(512)))


def test_wavelet_of_a_picture_with_itself_changes_nothing() -> None:
    image = noise(1, 3, 20, 20)
    torch.testing.assert_close(match_color(image, image, ColorMatch.WAVELET), image)


def test_wavelet_corrects_a_color_cast_up_to_the_borders() -> None:
    image = noise(1, 3, 20, 20)
    cast = image + torch.tensor([0.3, -0.2, 0.1]).view(1, 3, 1, 1)
    torch.testing.assert_close(match_color(cast, image, ColorMatch.WAVELET), image)


@pytest.fixture
def adain() -> tuple[Tensor, Tensor]:
    """(matched, source) of two unrelated pictures."""
    spread = torch.tensor([0.5, 2.0, 1.0]).view(1, 3, 1, 1)
    source = noise(2, 3, 32, 32, seed=1) * spread + spread
    return match_color(noise(2, 3, 32, 32), source, ColorMatch.ADAIN), source


def test_adain_takes_the_mean_of_every_channel_of_the_source(adain: tuple[Tensor, Tensor]) -> None:
    matched, source = adain
    torch.testing.assert_close(matched.mean((2, 3)), source.mean((2, 3)))


def test_adain_takes_the_spread_of_every_channel_of_the_source(
    adain: tuple[Tensor, Tensor],
) -> None:
    matched, source = adain
    torch.testing.assert_close(matched.std((2, 3)), source.std((2, 3)), rtol=1e-4, atol=0)


def test_adain_keeps_the_structure_of_the_result() -> None:
    result, source = noise(1, 1, 32, 32), noise(1, 1, 32, 32, seed=1)
    matched = match_color(result, source, ColorMatch.ADAIN)
    pair = torch.stack([result.flatten(), matched.flatten()])
    assert torch.corrcoef(pair)[0, 1].item() == pytest.approx(1.0)


def test_adain_of_a_flat_result_is_the_mean_of_the_source() -> None:
    source = noise(1, 3, 8, 8)
    matched = match_color(torch.full((1, 3, 8, 8), 0.5), source, ColorMatch.ADAIN)
    torch.testing.assert_close(matched, source.mean((2, 3), keepdim=True).expand(1, 3, 8, 8))


def test_no_color_match_is_the_result_itself() -> None:
    result = noise(1, 3, 8, 8)
    assert match_color(result, noise(1, 3, 8, 8, seed=1), ColorMatch.NONE) is result


@pytest.mark.parametrize("how", list(ColorMatch))
def test_size_and_number_type_stay_those_of_the_result(how: ColorMatch) -> None:
    result = noise(2, 3, 7, 9).to(torch.bfloat16)
    matched = match_color(result, result.flip(0), how)
    assert (matched.shape, matched.dtype) == (result.shape, result.dtype)
