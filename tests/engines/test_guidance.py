import math

import pytest
import torch
from torch import Tensor

from engines.guidance import (
    AGGREGATOR_THRESHOLD,
    adaptive_factor,
    aggregator_scale,
    guide,
    inside,
    rescale,
    runs_aggregator,
    settled,
    squared_distance,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(*values: float) -> Tensor:
    """One 2 x 2 row of each value."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)


@pytest.mark.parametrize(
    ("steps", "start", "end", "within"),
    [
        (4, 0.0, 1.0, [0, 1, 2, 3]),
        (4, 0.5, 1.0, [2, 3]),
        (4, 0.0, 0.5, [0, 1]),
        (4, 0.25, 0.75, [1, 2]),
        (4, 0.0, 0.0, []),
        (4, 1.0, 1.0, []),
        (4, 0.3, 0.7, []),  # steps count as inside only where they lie there whole
        (4, 0.2, 0.8, [1, 2]),
        (4, 0.75, 0.25, []),
        (1, 0.0, 1.0, [0]),
        (1, 0.0, 0.99, []),
        (30, 0.9, 1.0, [27, 28, 29]),
    ],
)
def test_the_steps_inside_a_share_of_the_run(
    steps: int, start: float, end: float, within: list[int]
) -> None:
    assert [step for step in range(steps) if inside(step, steps, start, end)] == within


@pytest.mark.parametrize("step", range(10))
def test_a_share_written_as_a_decimal_meets_the_edge_of_its_step(step: int) -> None:
    # 0.1 and its like are no exact floats; the step that begins or ends there still counts.
    start, end = float(f"0.{step}"), 1.0 if step == 9 else float(f"0.{step + 1}")
    assert [i for i in range(10) if inside(i, 10, start, end)] == [step]


@pytest.mark.parametrize("edge", [0.3, 0.7])
def test_the_next_float_beyond_an_edge_leaves_its_step_out(edge: float) -> None:
    step = round(edge * 10)
    assert not inside(step, 10, math.nextafter(edge, 1.0), 1.0)
    assert not inside(step - 1, 10, 0.0, math.nextafter(edge, 0.0))


def test_guidance_at_scale_one_is_the_positive_half() -> None:
    negative, positive = normal(1, 2, 3, 3), normal(1, 2, 3, 3, seed=1)
    torch.testing.assert_close(guide(negative, positive, 1.0), positive)


def test_guidance_at_scale_zero_is_the_negative_half() -> None:
    negative, positive = normal(1, 2, 3, 3), normal(1, 2, 3, 3, seed=1)
    assert torch.equal(guide(negative, positive, 0.0), negative)


def test_guidance_extrapolates_away_from_the_negative_half() -> None:
    assert torch.equal(guide(filled(1.0), filled(2.0), 7.0), filled(8.0))


def test_guidance_takes_a_scale_for_each_row() -> None:
    scale = torch.tensor([1.0, 3.0]).view(-1, 1, 1, 1)
    assert torch.equal(guide(filled(1.0, 1.0), filled(2.0, 2.0), scale), filled(2.0, 4.0))


def test_a_full_rescale_restores_the_spread_of_every_row() -> None:
    positive = normal(2, 3, 8, 8)
    guided = positive * torch.tensor([5.0, 0.5]).view(-1, 1, 1, 1) + 1.0
    rescaled = rescale(guided, positive, 1.0)
    torch.testing.assert_close(rescaled.flatten(1).std(1), positive.flatten(1).std(1))


def test_a_rescale_of_nothing_changes_nothing() -> None:
    guided = normal(2, 3, 4, 4)
    assert torch.equal(rescale(guided, normal(2, 3, 4, 4, seed=1), 0.0), guided)


def test_a_rescale_of_a_share_lies_between() -> None:
    guided, positive = 4 * normal(1, 3, 8, 8), normal(1, 3, 8, 8)
    torch.testing.assert_close(rescale(guided, positive, 0.75), (0.75 * 1 + 0.25 * 4) * positive)


@pytest.mark.parametrize(
    ("factor", "ceiling", "scale"),
    [(0.4, 1.0, 0.4), (3.0, 1.0, 1.0), (3.0, 5.0, 3.0), (-1.0, 1.0, 0.0), (math.inf, 0.8, 0.8)],
)
def test_the_aggregator_scale_is_the_factor_up_to_its_ceiling(
    factor: float, ceiling: float, scale: float
) -> None:
    found = aggregator_scale(torch.tensor(factor), ceiling, on=True)
    assert found.item() == pytest.approx(scale)


@pytest.mark.parametrize("factor", [0.5, math.inf])
def test_the_aggregator_scale_is_zero_where_it_is_off(factor: float) -> None:
    assert aggregator_scale(torch.tensor(factor), 1.0, on=False).item() == 0.0


@pytest.mark.parametrize(
    ("scale", "runs"),
    [(0.0, False), (AGGREGATOR_THRESHOLD, False), (0.1001, True), (1.0, True), (math.nan, False)],
)
def test_the_aggregator_runs_only_above_its_threshold(scale: float, runs: bool) -> None:
    assert runs_aggregator(torch.tensor([scale]).view(1, 1, 1, 1)).tolist() == [runs]


def test_the_aggregator_is_decided_for_each_row_alone() -> None:
    scales = torch.tensor([0.0, 1.0, 0.05, 0.2]).view(-1, 1, 1, 1)
    assert runs_aggregator(scales).tolist() == [False, True, False, True]


def test_squared_distances_are_summed_over_each_row() -> None:
    assert squared_distance(filled(1.0, 5.0), filled(3.0, 5.0)).tolist() == [16.0, 0.0]


def test_squared_distances_of_half_floats_do_not_overflow() -> None:
    far = torch.full((1, 4, 16, 16), 100.0, dtype=torch.float16)
    assert squared_distance(far, -far).item() == 1024 * 200.0**2


def test_the_adaptive_factor_is_the_distance_to_x0_over_the_reference_step() -> None:
    factor = adaptive_factor(filled(3.0, 3.0), filled(1.0, 2.0), filled(4.0, 6.0))
    assert factor.flatten().tolist() == [1 / 4, 9 / 1]


def test_the_adaptive_factor_has_one_value_per_restoration() -> None:
    assert adaptive_factor(
        normal(3, 2, 4, 4), normal(3, 2, 4, 4, seed=1), normal(3, 2, 4, 4)
    ).shape == (
        3,
        1,
        1,
        1,
    )


@pytest.mark.parametrize("x0", [1.0, 2.0], ids=["x0 on the reference", "x0 elsewhere"])
def test_a_reference_that_stands_still_gives_infinity_and_never_nan(x0: float) -> None:
    assert adaptive_factor(filled(1.0), filled(1.0), filled(x0)).item() == math.inf


def test_a_row_that_stands_still_leaves_its_neighbors_alone() -> None:
    factor = adaptive_factor(filled(1.0, 3.0), filled(1.0, 1.0), filled(1.0, 4.0))
    assert factor.flatten().tolist() == [math.inf, 0.25]


def test_an_infinite_factor_becomes_the_ceiling_of_the_next_step() -> None:
    factor = adaptive_factor(filled(1.0), filled(1.0), filled(2.0))
    assert aggregator_scale(factor, 0.6, on=True).item() == pytest.approx(0.6)


@pytest.mark.parametrize(("moved", "expected"), [(0.0, True), (0.1, True), (0.11, False)])
def test_a_reference_has_settled_where_it_moves_little_beside_what_it_lacks(
    moved: float, expected: bool
) -> None:
    assert settled(moved, 1.0) is expected


def test_a_reference_that_stands_still_has_settled_even_where_nothing_is_missing() -> None:
    assert settled(0.0, 0.0)
