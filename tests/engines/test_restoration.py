import pytest
import torch
from torch import Tensor

from engines.params import RestoreParams
from engines.restoration import Conditioning, Frame, Plan, Restoration, SeededNoise

SHAPE = (1, 4, 2, 3)


def restoration(steps: int) -> Restoration:
    """At its start, with a plan of so many steps."""
    plan = Plan(
        timesteps=tuple(range(steps, 0, -1)),
        after=tuple(range(steps - 1, -1, -1)),
        previews=(True,) * steps,
        aggregates=(True,) * steps,
        ceilings=(1.0,) * steps,
    )
    return Restoration(
        params=RestoreParams(),
        plan=plan,
        condition=conditioning(2),
        noise=SeededNoise(0),
        frame=Frame((8, 8), (8, 8), None),
        degraded=torch.zeros(SHAPE),
        base=torch.zeros(SHAPE),
        latents=torch.zeros(SHAPE),
    )


def conditioning(rows: int) -> Conditioning:
    def empty(*shape: int) -> Tensor:
        return torch.zeros(rows, *shape)

    return Conditioning(
        text=empty(5, 8),
        pooled=empty(8),
        time_ids=empty(6),
        tokens=empty(4, 8),
        preview_tokens=empty(4, 8),
        memory=(),
        preview_memory=(),
    )


def test_equal_seeds_draw_equal_sequences() -> None:
    one, other = SeededNoise(7), SeededNoise(7)
    for _ in range(3):
        assert torch.equal(one.draw(SHAPE), other.draw(SHAPE))


def test_different_seeds_draw_different_noise() -> None:
    assert not torch.equal(SeededNoise(7).draw(SHAPE), SeededNoise(8).draw(SHAPE))


def test_the_draws_of_one_sequence_differ() -> None:
    noise = SeededNoise(7)
    assert not torch.equal(noise.draw(SHAPE), noise.draw(SHAPE))


def test_a_neighbor_that_draws_in_between_changes_nothing() -> None:
    alone, disturbed, neighbor = SeededNoise(7), SeededNoise(7), SeededNoise(8)
    alone.draw(SHAPE)
    disturbed.draw(SHAPE)
    neighbor.draw(SHAPE)
    torch.randn(5)
    assert torch.equal(alone.draw(SHAPE), disturbed.draw(SHAPE))


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    SeededNoise(7).draw(SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


def test_noise_is_float32_of_the_asked_shape_on_the_cpu() -> None:
    drawn = SeededNoise(0).draw(SHAPE)
    assert (drawn.shape, drawn.dtype, drawn.device.type) == (SHAPE, torch.float32, "cpu")


def test_noise_is_standard_normal() -> None:
    drawn = SeededNoise(0).draw((100_000,))
    # Four standard errors of 100,000 draws.
    assert drawn.mean().item() == pytest.approx(0.0, abs=4 * 0.0032)
    assert drawn.std().item() == pytest.approx(1.0, abs=4 * 0.0023)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_least_and_the_greatest_seed_draw(seed: int) -> None:
    assert SeededNoise(seed).draw(SHAPE).isfinite().all()


@pytest.mark.parametrize("rows", [1, 2])
def test_conditioning_counts_its_rows(rows: int) -> None:
    assert conditioning(rows).rows == rows


def test_a_restoration_has_the_steps_of_its_plan() -> None:
    assert restoration(3).steps == 3


@pytest.mark.parametrize(("step", "done"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_restoration_is_done_after_its_last_step(step: int, done: bool) -> None:
    current = restoration(3)
    current.step = step
    assert current.done is done


def test_a_restoration_starts_with_nothing_previewed_and_a_factor_of_one() -> None:
    fresh = restoration(2)
    assert (fresh.step, fresh.reference, fresh.residuals) == (0, None, None)
    assert fresh.factor.item() == 1.0


def test_restorations_do_not_share_their_factor() -> None:
    one, other = restoration(1), restoration(1)
    one.factor.zero_()
    assert other.factor.item() == 1.0
