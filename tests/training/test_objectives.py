"""On the tiny model with weights of its own, so that nothing is zero by construction."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engines.parameterization import Prediction, predicted_x0
from engines.samplers import consistency_x0
from tests.training.conftest import SIDE_PX, normal
from training import objectives
from training.draws import Chances, Draw, draw
from training.objectives import OBJECTIVES, Example, Objective, Setting, gain, huber, log_error, mse
from training.trainee import Part, Trainee, part_of

ROWS = 2
SETTING = Setting(mse, size_px=256.0, guidance=(1.0, 2.0))


@pytest.fixture
def example(trainee: Trainee) -> Example:
    clean, damage = normal(2, ROWS, 3, SIDE_PX, SIDE_PX).mul(0.2)
    degraded = clean + damage
    encode = trainee.codec.encode
    latents = encode(clean, None), encode(degraded, None)
    return Example(*latents, degraded, ["bright", "dark, warm"])


@pytest.fixture
def chance(example: Example) -> Draw:
    """A draw in which nothing happens."""
    return draw(torch.Generator().manual_seed(1), example.clean.shape, Chances())


@pytest.fixture
def loss(trainee: Trainee, example: Example) -> Callable[..., Tensor]:
    """A function (objective, chance, changes of the example) -> loss."""

    def loss(objective: Objective, chance: Draw, **changes: object) -> Tensor:
        return OBJECTIVES[objective](
            trainee, replace(example, **changes), chance, SETTING
        ).loss.detach()

    return loss


def with_gradient(trainee: Trainee) -> set[Part]:
    return {
        part_of(name)
        for name, parameter in trainee.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }


def mask(*rows: bool) -> Tensor:
    return torch.tensor(rows)


@pytest.mark.parametrize(
    ("objective", "reached"),
    [
        (Objective.DENOISE, {Part.UNET, Part.HEAD, Part.DCP, Part.TEXT, Part.VISION}),
        (Objective.AGGREGATE, set(Part) - {Part.PREVIEWER, Part.TONE, Part.CODEC}),
        (Objective.RESTORE, set(Part) - {Part.PREVIEWER, Part.TONE, Part.CODEC}),
        (Objective.RESTORE_WITH_PREVIEWS, set(Part) - {Part.TONE, Part.CODEC}),
        (Objective.TONE, {Part.TONE}),
    ],
)
def test_a_loss_reaches_the_parts_it_is_about(
    trainee: Trainee, example: Example, chance: Draw, objective: Objective, reached: set[Part]
) -> None:
    trainee.open_merges()
    OBJECTIVES[objective](trainee, example, chance, SETTING).loss.backward()
    assert with_gradient(trainee) == reached


def test_the_distillation_reaches_the_previewer(
    trainee: Trainee, example: Example, chance: Draw
) -> None:
    OBJECTIVES[Objective.DISTILL](trainee, example, chance, SETTING).loss.backward()
    assert Part.PREVIEWER in with_gradient(trainee)
    assert Part.AGGREGATOR not in with_gradient(trainee)


def test_the_preview_loss_of_the_polish_reaches_the_previewer_alone(
    trainee: Trainee, example: Example, chance: Draw
) -> None:
    given = objectives.conditions(trainee, example, chance, 256.0)
    preview = objectives._preview(
        trainee,
        example.degraded,
        chance.timesteps,
        given.detached(),
        example.degraded,
        lora_alone=True,
    )
    preview.square().mean().backward()
    assert with_gradient(trainee) == {Part.PREVIEWER}


@pytest.mark.parametrize("kind", Prediction)
def test_the_target_is_what_a_perfect_network_would_say(
    trainee: Trainee, example: Example, chance: Draw, kind: Prediction
) -> None:
    trainee.prediction = kind
    noisy = objectives._noised(trainee, example, chance)
    target = objectives._target(trainee, example.clean, chance, example.degraded)
    alpha = trainee.alphas[chance.timesteps].view(-1, 1, 1, 1)
    x0 = predicted_x0(kind, target, noisy, alpha, example.degraded)
    torch.testing.assert_close(x0, example.clean, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("objective", [Objective.DENOISE, Objective.AGGREGATE])
def test_dropped_text_hides_the_caption(
    loss: Callable[..., Tensor], chance: Draw, objective: Objective
) -> None:
    other = {"captions": ["night", "cool"]}
    assert loss(objective, chance) != loss(objective, chance, **other)
    dropped = replace(chance, drop_text=mask(True, True))
    assert loss(objective, dropped) == loss(objective, dropped, **other)


def test_dropped_vision_hides_the_picture(
    loss: Callable[..., Tensor], chance: Draw, example: Example
) -> None:
    other = {"pixels": -example.pixels}
    assert loss(Objective.DENOISE, chance) != loss(Objective.DENOISE, chance, **other)
    dropped = replace(chance, drop_vision=mask(True, True))
    assert loss(Objective.DENOISE, dropped) == loss(Objective.DENOISE, dropped, **other)


def test_without_residuals_the_aggregator_is_not_heard(
    trainee: Trainee, loss: Callable[..., Tensor], chance: Draw
) -> None:
    trainee.open_merges()
    silent = replace(chance, drop_residuals=mask(True, True))
    before = loss(Objective.RESTORE, chance), loss(Objective.RESTORE, silent)
    with torch.no_grad():
        trainee.aggregator.conv_in.weight.mul_(2)
    after = loss(Objective.RESTORE, chance), loss(Objective.RESTORE, silent)
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_rows_start_from_the_clean_or_the_degraded_latent_as_drawn(
    trainee: Trainee, example: Example, chance: Draw
) -> None:
    drawn = replace(chance, noise=torch.zeros_like(chance.noise), degraded_start=mask(True, False))
    noisy = objectives._noised(trainee, example, drawn)
    alpha = trainee.alphas[chance.timesteps].view(-1, 1, 1, 1).sqrt()
    expected = torch.stack([example.degraded[0], example.clean[1]]) * alpha
    torch.testing.assert_close(noisy, expected)


def test_a_rollout_replaces_the_start_of_its_rows_alone(
    trainee: Trainee, example: Example, chance: Draw, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[Tensor] = []
    noised = objectives._noised

    def spy(*args: object) -> Tensor:
        starts.append(noised(*args))  # pyright: ignore[reportArgumentType]
        return starts[-1]

    monkeypatch.setattr(objectives, "_noised", spy)
    drawn = replace(chance, degraded_start=mask(True, True), rollout=mask(True, False))
    rolling = replace(SETTING, rollouts=True)
    OBJECTIVES[Objective.RESTORE_WITH_PREVIEWS](trainee, example, drawn, rolling)
    plain = noised(trainee, example, drawn)
    same = [torch.equal(starts[-1][row], plain[row]) for row in range(ROWS)]
    assert same == [False, True]


def test_the_student_aims_at_its_own_estimate_one_teacher_step_on(
    trainee: Trainee, example: Example, chance: Draw
) -> None:
    """From the first of the teacher's steps the target lies at t = 0, nearly the latent itself."""
    drawn = replace(chance, timesteps=torch.tensor([3, 12]))
    targets: list[Tensor] = []

    def keep(estimate: Tensor, target: Tensor) -> Tensor:
        targets.append(target)
        return mse(estimate, target)

    OBJECTIVES[Objective.DISTILL](trainee, example, drawn, replace(SETTING, loss=keep))
    given = objectives.conditions(
        trainee, example, replace(drawn, drop_text=mask(True, True)), 256.0
    )
    steps = torch.tensor([0, 0])
    at_zero = objectives._preview(trainee, targets[0], steps, given, example.degraded)
    # At t = 0 a consistency function is the identity.
    torch.testing.assert_close(at_zero, targets[0])
    torch.testing.assert_close(consistency_x0(-targets[0], targets[0], steps), targets[0])


def offset(*errors: float) -> Tensor:
    """Pictures that are off by these amounts everywhere."""
    return torch.tensor(errors).view(-1, 1, 1, 1).expand(len(errors), 2, 4, 4)


def test_half_the_error_gains_six_decibels() -> None:
    assert gain(offset(0.5), offset(1.0), torch.zeros(1, 2, 4, 4)) == pytest.approx(6.02, abs=0.01)


def test_an_estimate_like_its_input_gains_nothing() -> None:
    degraded = normal(3, 2, 4, 4)
    assert gain(degraded, degraded, normal(3, 2, 4, 4)) == 0


def test_gains_are_averaged_over_the_rows_of_a_mask_whatever_their_damage() -> None:
    clean, degraded = torch.zeros(3, 2, 4, 4), offset(1.0, 0.2, 0.1)
    rows = mask(True, True, False)
    both = gain(offset(0.5, 0.1, 9.0), degraded, clean, rows)
    assert both == pytest.approx(6.02, abs=0.05)


def test_a_dry_run_gains_nothing_that_is_a_number() -> None:
    nothing = torch.zeros(1, 2, 4, 4, device="meta")
    assert gain(nothing, nothing, nothing) != gain(nothing, nothing, nothing)


def test_the_huber_loss_is_the_absolute_error_but_at_zero() -> None:
    assert huber(offset(0.5, 0.1), offset(0.0, 0.0)).item() == pytest.approx(0.3, abs=2e-3)


def test_halving_the_error_of_any_picture_lowers_the_log_error_alike() -> None:
    clean = offset(0.0, 0.0)
    before = log_error(offset(8.0, 1.0), clean)
    falls = [before - log_error(offset(*e), clean) for e in ((4.0, 1.0), (8.0, 0.5))]
    assert falls[0].item() == pytest.approx(falls[1].item(), rel=1e-3)
    assert falls[0] > 0.1


@pytest.mark.parametrize("loss", [mse, huber, log_error])
def test_a_perfect_estimate_has_a_gradient_without_nan(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    estimate = normal(1, 2, 4, 4).requires_grad_()
    loss(estimate, estimate.detach()).backward()
    assert estimate.grad is not None
    assert estimate.grad.abs().max() == 0
