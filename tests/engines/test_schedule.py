import math

import pytest
import torch

from engines.schedule import (
    TRAIN_STEPS,
    add_noise,
    alphas_cumprod,
    leading_timesteps,
    previous_timesteps,
)

SDXL = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def test_the_first_signal_share_is_one_minus_the_first_beta() -> None:
    assert alphas_cumprod(SDXL)[0].item() == pytest.approx(1 - 0.00085, abs=1e-7)


def test_the_last_signal_share_is_the_product_of_all() -> None:
    roots = [
        math.sqrt(0.00085) + (math.sqrt(0.012) - math.sqrt(0.00085)) * i / 999 for i in range(1000)
    ]
    product = math.prod(1 - root**2 for root in roots)
    assert alphas_cumprod(SDXL)[-1].item() == pytest.approx(product, rel=1e-4)


def test_signal_shares_fall_all_the_way_and_stay_above_zero() -> None:
    alphas = alphas_cumprod(SDXL)
    assert (alphas.diff() < 0).all()
    assert alphas[-1] > 0


def test_there_is_one_float32_share_for_each_training_step() -> None:
    alphas = alphas_cumprod(SDXL)
    assert (alphas.shape, alphas.dtype) == ((TRAIN_STEPS,), torch.float32)


def test_the_number_of_training_steps_is_read_from_the_configuration() -> None:
    assert alphas_cumprod({**SDXL, "num_train_timesteps": 10}).shape == (10,)


def test_another_beta_schedule_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'linear', known: 'scaled_linear'"):
        alphas_cumprod({**SDXL, "beta_schedule": "linear"})


def test_four_steps_are_the_known_ones() -> None:
    assert leading_timesteps(4) == (751, 501, 251, 1)


def test_thirty_steps_start_at_958_and_end_at_1() -> None:
    steps = leading_timesteps(30)
    assert (len(steps), steps[:2], steps[-2:]) == (30, (958, 925), (34, 1))


def test_one_step_is_the_last_one() -> None:
    assert leading_timesteps(1) == (1,)


@pytest.mark.parametrize("offset", [0, 1, 5])
def test_the_offset_moves_every_step(offset: int) -> None:
    assert leading_timesteps(2, offset) == (500 + offset, offset)


def test_every_number_of_steps_a_user_can_choose_stays_on_the_schedule() -> None:
    for count in range(1, 101):
        steps = leading_timesteps(count)
        assert len(steps) == count
        assert TRAIN_STEPS > steps[0] >= steps[-1] == 1


@pytest.mark.parametrize("count", [0, -1, 1001])
def test_numbers_of_steps_outside_the_schedule_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"steps is {count}, allowed: 1 to 1000"):
        leading_timesteps(count)


def test_regular_steps_land_on_the_next_one_and_the_last_beyond_clean() -> None:
    steps = leading_timesteps(30)
    after = previous_timesteps(steps, custom=False)
    assert after[:-1] == steps[1:]
    assert after[-1] == 1 - 33


def test_regular_steps_stride_evenly_whatever_their_spacing() -> None:
    assert previous_timesteps((700, 50), custom=False) == (200, -450)


def test_custom_steps_land_on_the_next_entry_and_the_last_on_clean() -> None:
    assert previous_timesteps((900, 400, 399, 7), custom=True) == (400, 399, 7, -1)


def test_a_single_custom_step_lands_on_clean() -> None:
    assert previous_timesteps((999,), custom=True) == (-1,)


def test_noise_is_mixed_in_with_the_roots_of_the_shares() -> None:
    clean, noise = torch.full((1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1), -2.0)
    mixed = add_noise(clean, noise, torch.tensor(0.36))
    assert mixed.item() == pytest.approx(0.6 * 3 - 0.8 * 2)


@pytest.mark.parametrize("share", [1.0, 0.7, 0.04, 0.0])
def test_unit_variance_stays_unit_variance_at_every_share(share: float) -> None:
    clean, noise = torch.randn((2, 40_000), generator=torch.Generator().manual_seed(3))
    # 40,000 draws: the standard error of the variance is 0.7 %.
    assert add_noise(clean, noise, torch.tensor(share)).var().item() == pytest.approx(1, abs=0.03)


def test_every_row_takes_its_own_share() -> None:
    clean, noise = torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)
    mixed = add_noise(clean, noise, torch.tensor([1.0, 0.25]).view(-1, 1, 1, 1))
    assert mixed.flatten().tolist() == [1.0, 0.5]


def test_a_start_shortens_the_schedule_to_its_first_time_steps() -> None:
    assert leading_timesteps(4, start=200) == (151, 101, 51, 1)
    assert previous_timesteps((151, 101, 51, 1), custom=False, start=200) == (101, 51, 1, -49)


def test_a_start_below_the_number_of_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="steps is 5, allowed: 1 to 4"):
        leading_timesteps(5, start=4)
