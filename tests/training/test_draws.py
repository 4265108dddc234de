from dataclasses import fields

import pytest
import torch

from training.draws import Chances, Draw, draw, on_device, per_row

ROWS = 20_000
SOME = Chances(
    drop_text=0.1,
    drop_vision=0.2,
    drop_both=0.3,
    drop_residuals=0.05,
    degraded_start=0.9,
    rollout=0.5,
    small_share=0.9,
    small_steps=40,
)
FIELDS = [field.name for field in fields(Draw)]


def drawn(seed: int, chances: Chances = SOME, rows: int = ROWS) -> Draw:
    return draw(torch.Generator().manual_seed(seed), torch.Size((rows, 1, 2, 2)), chances)


@pytest.mark.parametrize("field", FIELDS)
def test_equal_seeds_draw_the_same(field: str) -> None:
    assert torch.equal(getattr(drawn(4), field), getattr(drawn(4), field))


@pytest.mark.parametrize("field", FIELDS)
def test_different_seeds_draw_differently(field: str) -> None:
    assert not torch.equal(getattr(drawn(4), field), getattr(drawn(5), field))


def test_time_steps_lie_on_the_schedule_and_leave_out_zero() -> None:
    timesteps = drawn(0).timesteps
    assert timesteps.dtype == torch.int64
    assert 1 <= int(timesteps.min()) < int(timesteps.max()) <= 999


def test_small_time_steps_are_drawn_more_often() -> None:
    share = (drawn(0).timesteps <= 40).float().mean().item()
    # Nine tenths are drawn from 1 to 40, and 4 % of the others fall there; four errors.
    assert share == pytest.approx(0.904, abs=0.009)


def test_a_run_may_keep_to_the_lower_time_steps() -> None:
    timesteps = drawn(0, Chances(steps=50)).timesteps
    assert (int(timesteps.min()), int(timesteps.max())) == (1, 50)


def test_without_chances_time_steps_are_uniform_and_nothing_happens() -> None:
    plain = drawn(0, Chances())
    assert plain.timesteps.float().mean().item() == pytest.approx(500, abs=9)
    masks = [getattr(plain, name) for name in FIELDS if getattr(plain, name).dtype == torch.bool]
    assert len(masks) == 5
    assert not any(mask.any() for mask in masks)


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("drop_text", 0.4),
        ("drop_vision", 0.5),
        ("drop_residuals", 0.05),
        ("degraded_start", 0.9),
        ("rollout", 0.5),
    ],
)
def test_events_happen_at_their_rate(field: str, expected: float) -> None:
    share = getattr(drawn(0), field).float().mean().item()
    assert share == pytest.approx(expected, abs=4 * (expected / ROWS) ** 0.5)


def test_dropping_one_dropping_the_other_and_dropping_both_exclude_each_other() -> None:
    both = (drawn(0).drop_text & drawn(0).drop_vision).float().mean().item()
    assert both == pytest.approx(0.3, abs=0.015)


def test_rows_are_taken_by_the_mask() -> None:
    mask = torch.tensor([True, False])
    yes, no = torch.ones(2, 3, 1, 1), torch.zeros(2, 3, 1, 1)
    assert per_row(mask, yes, no).flatten(1).tolist() == [[1, 1, 1], [0, 0, 0]]


def test_the_mask_of_the_text_stays_on_the_cpu() -> None:
    moved = on_device(drawn(0, rows=2), torch.device("meta"))
    assert moved.drop_text.device.type == "cpu"
    assert {getattr(moved, name).device.type for name in FIELDS if name != "drop_text"} == {"meta"}
