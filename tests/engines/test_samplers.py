"""Gaussian data N(mean, spread^2) have an exact denoiser, and with it every step a closed form."""

import math

import pytest
import torch
from torch import Tensor

from engines.params import Sampler
from engines.samplers import SAMPLERS, consistency_x0, ddim_step, ddpm_step
from engines.schedule import add_noise, alphas_cumprod

MEAN, SPREAD = 0.3, 0.5
CLEAN = torch.tensor(1.0, dtype=torch.float64)
SDXL = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
PAIRS = [(0.01, 0.02), (0.3, 0.5), (0.9, 0.99)]


@pytest.fixture(scope="module")
def alphas() -> Tensor:
    return alphas_cumprod(SDXL).double()


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def share(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def exact_x0(noisy: Tensor, now: Tensor) -> Tensor:
    """E[x0 | x_t] of the Gaussian data."""
    total = now * SPREAD**2 + 1 - now
    return MEAN + now.sqrt() * SPREAD**2 / total * (noisy - now.sqrt() * MEAN)


def run(sampler: Sampler, start: Tensor, alphas: Tensor, seed: int = 1) -> Tensor:
    """All 1000 steps down to clean, with the exact denoiser."""
    generator = torch.Generator().manual_seed(seed)
    noisy = start
    for t in reversed(range(len(alphas))):
        now, after = alphas[t], alphas[t - 1] if t else CLEAN
        noise = torch.randn(start.shape, generator=generator, dtype=start.dtype)
        noisy = SAMPLERS[sampler](exact_x0(noisy, now), noisy, now, after, noise)
    return noisy


@pytest.mark.parametrize(("now", "after"), PAIRS)
def test_ddim_keeps_the_noise_and_lowers_its_level(now: float, after: float) -> None:
    x0, noise = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    noisy = add_noise(x0, noise, share(now))
    stepped = ddim_step(x0, noisy, share(now), share(after), normal(2, 3, 4, 4, seed=2))
    torch.testing.assert_close(stepped, add_noise(x0, noise, share(after)))


@pytest.mark.parametrize(("now", "after"), PAIRS)
def test_ddpm_moves_to_the_posterior_mean_of_the_less_noisy_latent(
    now: float, after: float
) -> None:
    x0, noisy = normal(1, 2, 3, 3), normal(1, 2, 3, 3, seed=1)
    # Product of two Gaussians in x_after: given x0, and as what x_now was made from.
    from_x0, from_noisy = 1 / (1 - after), (now / after) / (1 - now / after)
    votes = from_x0 * math.sqrt(after) * x0 + from_noisy * noisy / math.sqrt(now / after)
    stepped = ddpm_step(x0, noisy, share(now), share(after), torch.zeros_like(x0))
    torch.testing.assert_close(stepped, votes / (from_x0 + from_noisy))


@pytest.mark.parametrize(("now", "after"), PAIRS)
def test_ddpm_adds_noise_of_the_posterior_variance(now: float, after: float) -> None:
    x0, noisy, noise = (normal(1, 2, 3, 3, seed=seed) for seed in range(3))
    given = (share(now), share(after))
    added = ddpm_step(x0, noisy, *given, noise) - ddpm_step(x0, noisy, *given, 0 * noise)
    precision = 1 / (1 - after) + (now / after) / (1 - now / after)
    torch.testing.assert_close(added, noise / math.sqrt(precision))


@pytest.mark.parametrize("sampler", list(Sampler))
def test_a_step_onto_the_clean_end_returns_x0(sampler: Sampler) -> None:
    x0, noisy, noise = (normal(2, 3, 4, 4, seed=seed) for seed in range(3))
    stepped = SAMPLERS[sampler](x0, noisy, share(0.3), CLEAN, noise)
    torch.testing.assert_close(stepped, x0, rtol=0, atol=1e-9)


@pytest.mark.parametrize("sampler", list(Sampler))
def test_rows_at_their_own_time_steps_equal_one_row_after_the_other(sampler: Sampler) -> None:
    x0, noisy, noise = (normal(3, 2, 4, 5, seed=seed) for seed in range(3))
    now, after = (torch.tensor(v).view(-1, 1, 1, 1) for v in ([0.1, 0.4, 0.9], [0.3, 0.8, 1.0]))
    together = SAMPLERS[sampler](x0, noisy, now, after, noise)
    rows = [
        SAMPLERS[sampler](x0[i : i + 1], noisy[i : i + 1], now[i], after[i], noise[i : i + 1])
        for i in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(rows))


@pytest.mark.parametrize("sampler", list(Sampler))
def test_a_step_changes_none_of_its_arguments(sampler: Sampler) -> None:
    given = [normal(1, 1, 2, 2), normal(1, 1, 2, 2), share(0.3), share(0.6), normal(1, 1, 2, 2)]
    copies = [tensor.clone() for tensor in given]
    SAMPLERS[sampler](given[0], given[1], given[2], given[3], given[4])
    assert all(torch.equal(a, b) for a, b in zip(given, copies, strict=True))


def test_every_sampler_a_user_can_name_is_in_the_table() -> None:
    assert set(SAMPLERS) == set(Sampler)


def test_ddim_with_the_exact_denoiser_maps_every_quantile_to_that_of_the_data(
    alphas: Tensor,
) -> None:
    quantiles = torch.linspace(-2, 2, 9, dtype=torch.float64).view(-1, 1, 1, 1)
    last = alphas[-1]
    start = last.sqrt() * MEAN + (last * SPREAD**2 + 1 - last).sqrt() * quantiles
    reached = run(Sampler.DDIM, start, alphas)
    torch.testing.assert_close(reached, MEAN + SPREAD * quantiles, rtol=0, atol=0.01)


def test_ddim_does_not_depend_on_the_noise_it_is_handed(alphas: Tensor) -> None:
    start = normal(4, 1, 1, 1)
    one, other = (run(Sampler.DDIM, start, alphas, seed=seed) for seed in (1, 2))
    assert torch.equal(one, other)


@pytest.fixture(scope="module")
def ddpm_draws(alphas: Tensor) -> Tensor:
    """4,000 samples of the data, drawn by 1000 ancestral steps from their noised selves."""
    last = alphas[-1]
    start = last.sqrt() * MEAN + (last * SPREAD**2 + 1 - last).sqrt() * normal(4000, 1, 1, 1)
    return run(Sampler.DDPM, start, alphas)


def test_ddpm_with_the_exact_denoiser_reaches_the_mean_of_the_data(ddpm_draws: Tensor) -> None:
    # Four standard errors of the mean of 4,000 draws.
    assert ddpm_draws.mean().item() == pytest.approx(MEAN, abs=4 * SPREAD / math.sqrt(4000))


def test_ddpm_with_the_exact_denoiser_reaches_the_spread_of_the_data(ddpm_draws: Tensor) -> None:
    # Four standard errors of the standard deviation, which is SPREAD / sqrt(2 n).
    assert ddpm_draws.std().item() == pytest.approx(SPREAD, abs=4 * SPREAD / math.sqrt(8000))


def test_ddpm_forgets_where_it_started(alphas: Tensor) -> None:
    same_noise = [run(Sampler.DDPM, torch.full((1, 1, 1, 1), v).double(), alphas) for v in (-2, 2)]
    assert abs(same_noise[0] - same_noise[1]).item() < 0.2 * SPREAD


def test_the_one_step_estimate_at_time_zero_is_its_input() -> None:
    x0, noisy = normal(3, 2, 4, 4), normal(3, 2, 4, 4, seed=1)
    assert torch.equal(consistency_x0(x0, noisy, torch.zeros(3)), noisy)


def test_the_one_step_estimate_at_late_time_steps_is_x0() -> None:
    x0, noisy = normal(1, 2, 4, 4), normal(1, 2, 4, 4, seed=1)
    torch.testing.assert_close(
        consistency_x0(x0, noisy, torch.tensor([999])), x0, rtol=1e-6, atol=1e-6
    )


def test_the_one_step_estimate_at_time_one_has_the_published_weights() -> None:
    x0, noisy = torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1)
    step = torch.tensor([1])
    assert consistency_x0(x0, noisy, step).item() == pytest.approx(10 / math.sqrt(100.25))
    assert consistency_x0(noisy, x0, step).item() == pytest.approx(0.25 / 100.25)


def test_the_one_step_estimate_takes_a_time_step_for_each_row() -> None:
    x0, noisy = normal(2, 2, 4, 4), normal(2, 2, 4, 4, seed=1)
    mixed = consistency_x0(x0, noisy, torch.tensor([0, 500]))
    assert torch.equal(mixed[:1], noisy[:1])
    assert torch.equal(mixed[1:], consistency_x0(x0[1:], noisy[1:], torch.tensor([500])))
