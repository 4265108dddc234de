from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from training.degrade import OPERATIONS, DegradationConfig, Degraded, degrade

SINGLE = DegradationConfig(second_round_share=0.0, skip_share=0.0, shuffle_share=0.0)


def scene(seed: int, height: int = 64, width: int = 64) -> NDArray[np.float32]:
    """A picture with edges, gradients and texture."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    picture = np.stack([x / width, y / height, (x + y) / (height + width)], axis=2)
    for _ in range(6):
        top, left = int(rng.integers(0, height - 8)), int(rng.integers(0, width - 8))
        picture[top : top + 16, left : left + 16] = rng.random(3)
    texture = 0.15 * rng.standard_normal((height, width, 1))
    return np.clip(picture + texture, 0.0, 1.0).astype(np.float32)


def at_strength(strength: float, **changes: float) -> DegradationConfig:
    return replace(DegradationConfig(), strength=(strength, strength), **changes)


def rank_correlation(a: NDArray[np.float64], b: list[float]) -> float:
    """Spearman's coefficient of values without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, np.array(b))]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def squared_error(clean: NDArray[np.float32], result: Degraded) -> float:
    return float(np.mean((clean - result.image) ** 2))


def test_the_same_seed_gives_the_same_picture_and_record() -> None:
    clean = scene(0)
    first = degrade(clean, np.random.default_rng(5))
    second = degrade(clean, np.random.default_rng(5))
    assert np.array_equal(first.image, second.image)
    assert first.record == second.record
    assert first.severity == second.severity


def test_different_seeds_give_different_pictures() -> None:
    clean = scene(0)
    first = degrade(clean, np.random.default_rng(5))
    assert not np.array_equal(first.image, degrade(clean, np.random.default_rng(6)).image)


def test_the_input_is_left_as_it_was() -> None:
    clean = scene(1)
    copy = clean.copy()
    for seed in range(20):
        degrade(clean, np.random.default_rng(seed))
    assert np.array_equal(clean, copy)


@pytest.mark.parametrize("size", [(16, 16), (17, 90), (96, 33), (96, 96)])
def test_size_range_and_eight_bit_levels_hold_for_any_draw(size: tuple[int, int]) -> None:
    clean = scene(2, *size) if min(size) >= 24 else scene(2)[: size[0], : size[1]]
    if clean.shape[:2] != size:
        clean = scene(2, 96, 96)[: size[0], : size[1]]
    for seed in range(60):
        result = degrade(clean, np.random.default_rng(seed))
        assert result.image.shape == (*size, 3)
        assert result.image.dtype == np.float32
        assert 0.0 <= result.image.min() <= result.image.max() <= 1.0
        assert np.allclose(result.image * 255.0, np.round(result.image * 255.0), atol=1e-3)
        assert 0.0 <= result.severity <= 1.0


def test_parameters_stay_inside_the_configured_ranges() -> None:
    clean = scene(3)
    seen: set[str] = set()
    for seed in range(200):
        for facts in degrade(clean, np.random.default_rng(seed)).record["operations"]:
            seen.add(facts["op"])
            if facts["op"] == "jpeg":
                assert 25 <= facts["quality"] <= 95
            elif facts["op"] == "noise":
                assert 0.0 <= facts["sigma_255"] <= 20.0
            elif facts["op"] == "resize":
                assert 0.249 <= facts["factor"] <= 1.3
            elif facts["kernel"] != "sinc":
                assert 0.2 <= facts["sigma_px"] <= 2.4
    assert seen == set(OPERATIONS)


def test_severity_and_error_rise_with_strength() -> None:
    strengths = np.linspace(0.0, 1.0, 9)
    severities: list[float] = []
    errors: list[float] = []
    for strength in strengths:
        results = [
            degrade(scene(seed), np.random.default_rng(seed), at_strength(float(strength)))
            for seed in range(12)
        ]
        severities.append(float(np.mean([r.severity for r in results])))
        errors.append(float(np.mean([squared_error(scene(i), r) for i, r in enumerate(results)])))
    assert rank_correlation(strengths, severities) > 0.98
    assert rank_correlation(strengths, errors) > 0.95


def test_no_strength_leaves_the_picture_nearly_as_it_was() -> None:
    clean = scene(4)
    result = degrade(clean, np.random.default_rng(0), replace(SINGLE, strength=(0.0, 0.0)))
    assert result.severity == 0.0
    assert squared_error(clean, result) < 3e-3


def test_the_mix_has_light_and_heavy_pictures() -> None:
    rng = np.random.default_rng(0)
    clean = scene(5, 32, 32)
    severities = np.array([degrade(clean, rng).severity for _ in range(400)])
    assert 0.2 < np.mean(severities < 0.25) < 0.5
    assert 0.15 < np.mean(severities > 0.55) < 0.45


def test_a_second_round_adds_to_the_severity() -> None:
    clean = scene(6)
    once = at_strength(0.5, second_round_share=0.0, skip_share=0.0)
    twice = at_strength(0.5, second_round_share=1.0, skip_share=0.0)
    for seed in range(5):
        first = degrade(clean, np.random.default_rng(seed), once)
        second = degrade(clean, np.random.default_rng(seed), twice)
        assert len(second.record["operations"]) == 2 * len(first.record["operations"])
        assert second.severity > first.severity


@pytest.mark.parametrize(("gray", "poisson"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_noise_has_the_recorded_deviation_at_mid_gray(gray: float, poisson: float) -> None:
    config = replace(
        SINGLE,
        strength=(0.5, 0.5),
        blur_sigma_px=(0.05, 0.05),
        downscale=(1.0, 1.0),
        upscale_share=0.0,
        sinc_share=0.0,
        jpeg_quality=(100, 100),
        gray_noise_share=gray,
        poisson_share=poisson,
    )
    result = degrade(np.full((128, 128, 3), 0.5, np.float32), np.random.default_rng(1), config)
    noise = next(f for f in result.record["operations"] if f["op"] == "noise")
    luma = result.image @ np.array([0.299, 0.587, 0.114], np.float32)
    # Independent channels average out in the luma; gray noise reaches it in full.
    share = 1.0 if gray else float(np.linalg.norm([0.299, 0.587, 0.114]))
    assert luma.std() * 255.0 == pytest.approx(noise["sigma_255"] * share, rel=0.08)


@pytest.mark.parametrize("shape", [(15, 64, 3), (64, 64), (64, 64, 4)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="16 px"):
        degrade(np.zeros(shape, np.float32), np.random.default_rng(0))
