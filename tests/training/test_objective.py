"""On nano's networks with fresh weights: their aggregator's outputs start at zero."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engines.folder import read_folder
from engines.models.lora import fuse_lora, lora_targets
from engines.networks import Networks, build_networks
from engines.schedule import alphas_cumprod
from training import nano
from training.objective import (
    Draw,
    Example,
    PreviewerLora,
    absolute_error,
    draw,
    estimates,
    gain,
)

ROWS, SIDE_PX = 2, 32
ALPHAS = alphas_cumprod(nano.SCHEDULER)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Networks:
    path = tmp_path_factory.mktemp("nano")
    nano.write_configs(path)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return build_networks(read_folder(path))


@pytest.fixture
def lora(networks: Networks) -> Iterator[PreviewerLora]:
    """A fresh update; gradients of the networks are gone after the test."""
    yield PreviewerLora(networks.denoiser)
    for part in networks.modules():
        part.zero_grad(set_to_none=True)


@pytest.fixture(scope="module")
def example(networks: Networks) -> Example:
    clean, damage = normal(2, ROWS, 3, SIDE_PX, SIDE_PX).mul(0.2)
    degraded = clean + damage
    encode = networks.codec.encode
    return Example(encode(clean, None), encode(degraded, None), degraded, ["bright", "dark, warm"])


@pytest.fixture(scope="module")
def chance(example: Example) -> Draw:
    """A draw that drops nothing."""
    never = torch.zeros(ROWS, dtype=torch.bool)
    drawn = draw(torch.Generator().manual_seed(1), example.clean.shape)
    return replace(drawn, drop_text=never, drop_vision=never)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def perturb(lora: PreviewerLora) -> None:
    with torch.no_grad():
        for index, up in enumerate(lora.up):
            up.copy_(0.1 * normal(*up.shape, seed=index))


def with_gradient(module: nn.Module) -> list[str]:
    return [
        name
        for name, parameter in module.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    ]


def base_gradients(networks: Networks) -> list[str]:
    return [name for part in networks.modules() for name in with_gradient(part)]


def main_of(networks: Networks, example: Example, chance: Draw) -> Tensor:
    with torch.inference_mode():
        return estimates(networks, None, example, chance, ALPHAS).main


def test_every_previewer_target_gets_an_update_and_nothing_else(
    networks: Networks, lora: PreviewerLora
) -> None:
    targets = lora_targets(networks.denoiser.named_modules())
    assert len(targets) > 0
    assert list(lora.pairs()) == targets


def test_a_fresh_update_changes_no_weight(networks: Networks, lora: PreviewerLora) -> None:
    fused = lora.fused(networks.denoiser)
    own = dict(networks.denoiser.named_parameters())
    assert fused.keys() == own.keys()
    assert all(torch.equal(fused[name], own[name]) for name in own)


def test_training_fuses_an_update_exactly_as_loading_does(
    networks: Networks, lora: PreviewerLora, tmp_path: Path
) -> None:
    perturb(lora)
    nano.write_configs(tmp_path)
    loaded = build_networks(read_folder(tmp_path)).denoiser
    loaded.load_state_dict(networks.denoiser.state_dict())
    fuse_lora(loaded, lora.pairs())
    fused = lora.fused(networks.denoiser)
    for name, weight in loaded.named_parameters():
        torch.testing.assert_close(fused[name], weight, msg=name)


@torch.no_grad()
def test_with_a_fresh_update_both_networks_predict_the_same(
    networks: Networks, lora: PreviewerLora, example: Example, chance: Draw
) -> None:
    found = estimates(networks, lora, example, chance, ALPHAS)
    assert found.preview is not None
    # The main network adds to the preview what the previewer added to the degraded latents.
    torch.testing.assert_close(found.main - found.preview, found.preview - example.degraded)


@torch.no_grad()
def test_a_perturbed_update_changes_the_preview(
    networks: Networks, lora: PreviewerLora, example: Example, chance: Draw
) -> None:
    before = estimates(networks, lora, example, chance, ALPHAS).preview
    perturb(lora)
    after = estimates(networks, lora, example, chance, ALPHAS).preview
    assert before is not None
    assert after is not None
    assert (after - before).abs().max() > 1e-3


@torch.no_grad()
def test_without_an_update_nothing_is_previewed_and_the_reference_is_the_input(
    networks: Networks, lora: PreviewerLora, example: Example, chance: Draw
) -> None:
    alone = estimates(networks, None, example, chance, ALPHAS)
    previewed = estimates(networks, lora, example, chance, ALPHAS).preview
    assert alone.preview is None
    assert previewed is not None
    torch.testing.assert_close(alone.main, previewed)


def test_the_preview_loss_reaches_every_up_half_of_the_update_and_no_network(
    networks: Networks, lora: PreviewerLora, example: Example, chance: Draw
) -> None:
    preview = estimates(networks, lora, example, chance, ALPHAS).preview
    assert preview is not None
    absolute_error(preview, example.clean).backward()
    assert base_gradients(networks) == []
    assert {f"up.{i}" for i in range(len(lora.names))} <= set(with_gradient(lora))


def test_the_preview_loss_reaches_the_down_halves_once_up_has_left_zero(
    networks: Networks, lora: PreviewerLora, example: Example, chance: Draw
) -> None:
    perturb(lora)
    preview = estimates(networks, lora, example, chance, ALPHAS).preview
    assert preview is not None
    absolute_error(preview, example.clean).backward()
    assert {f"down.{i}" for i in range(len(lora.names))} <= set(with_gradient(lora))


def test_the_main_loss_reaches_the_networks_and_not_the_update(
    networks: Networks, lora: PreviewerLora, example: Example, chance: Draw
) -> None:
    perturb(lora)
    main = estimates(networks, lora, example, chance, ALPHAS).main
    absolute_error(main, example.clean).backward()
    assert with_gradient(lora) == []
    reached = [len(with_gradient(part)) > 0 for part in networks.modules()[:-1]]
    assert reached == [True] * 4


def test_dropped_text_hides_the_caption(networks: Networks, example: Example, chance: Draw) -> None:
    chance = replace(chance, drop_text=torch.ones(ROWS, dtype=torch.bool))
    other = replace(example, captions=["night", "cool"])
    assert torch.equal(main_of(networks, example, chance), main_of(networks, other, chance))


def test_text_is_dropped_for_the_drawn_rows_alone(
    networks: Networks, example: Example, chance: Draw
) -> None:
    chance = replace(chance, drop_text=torch.tensor([True, False]))
    other = replace(example, captions=["night", "cool"])
    moved = main_of(networks, example, chance) - main_of(networks, other, chance)
    assert (moved.flatten(1).abs().amax(1) > 1e-6).tolist() == [False, True]


def test_dropped_vision_hides_the_picture(
    networks: Networks, example: Example, chance: Draw
) -> None:
    chance = replace(chance, drop_vision=torch.ones(ROWS, dtype=torch.bool))
    other = replace(example, pixels=-example.pixels)
    assert torch.equal(main_of(networks, example, chance), main_of(networks, other, chance))


def test_vision_is_dropped_for_the_drawn_rows_alone(
    networks: Networks, example: Example, chance: Draw
) -> None:
    chance = replace(chance, drop_vision=torch.tensor([False, True]))
    other = replace(example, pixels=-example.pixels)
    moved = main_of(networks, example, chance) - main_of(networks, other, chance)
    assert (moved.flatten(1).abs().amax(1) > 1e-6).tolist() == [True, False]


def test_rows_start_from_the_clean_or_the_degraded_latent_as_drawn(
    networks: Networks, example: Example, chance: Draw
) -> None:
    chance = replace(chance, clean_start=torch.tensor([1.0, 0.0]).view(-1, 1, 1, 1))
    other = replace(example, clean=-example.clean)
    moved = main_of(networks, example, chance) - main_of(networks, other, chance)
    assert (moved.flatten(1).abs().amax(1) > 1e-6).tolist() == [True, False]


def drawn(seed: int, rows: int = 2000) -> Draw:
    return draw(torch.Generator().manual_seed(seed), torch.Size((rows, 1, 2, 2)))


FIELDS = [
    "timesteps",
    "noise",
    "clean_start",
    "drop_text",
    "drop_vision",
    "keep_aggregator",
]


@pytest.mark.parametrize("field", FIELDS)
def test_equal_seeds_draw_the_same(field: str) -> None:
    assert torch.equal(getattr(drawn(4), field), getattr(drawn(4), field))


@pytest.mark.parametrize("field", FIELDS)
def test_different_seeds_draw_differently(field: str) -> None:
    assert not torch.equal(getattr(drawn(4), field), getattr(drawn(5), field))


def test_time_steps_lie_on_the_schedule_and_leave_out_zero() -> None:
    timesteps = drawn(0, rows=20_000).timesteps
    assert timesteps.dtype == torch.int64
    assert 1 <= int(timesteps.min()) < int(timesteps.max()) <= 999


def test_small_time_steps_are_drawn_more_often() -> None:
    share = (drawn(0, rows=20_000).timesteps <= 50).float().mean().item()
    # Nine tenths are drawn from 1 to 50, and a twentieth of the others falls there; four errors.
    assert share == pytest.approx(0.905, abs=0.009)


def test_size_conditioning_is_the_same_for_every_picture() -> None:
    assert drawn(0, rows=2).sizes.tolist() == [[256, 256, 0, 0, 256, 256]] * 2


@pytest.mark.parametrize(
    ("field", "expected"),
    [("drop_text", 0.1), ("drop_vision", 0.05), ("clean_start", 0.05), ("keep_aggregator", 0.95)],
)
def test_rare_events_happen_at_their_rate(field: str, expected: float) -> None:
    share = getattr(drawn(0, rows=20_000), field).float().mean().item()
    assert share == pytest.approx(expected, abs=4 * (expected / 20_000) ** 0.5)


def offset(*errors: float) -> Tensor:
    """Pictures that are off by these amounts everywhere."""
    return torch.tensor(errors).view(-1, 1, 1, 1).expand(len(errors), 2, 4, 4)


def test_half_the_error_gains_six_decibels() -> None:
    clean = torch.zeros(1, 2, 4, 4)
    assert gain(offset(0.5), offset(1.0), clean).item() == pytest.approx(6.02, abs=0.01)


def test_an_estimate_like_its_input_gains_nothing() -> None:
    degraded = normal(3, 2, 4, 4)
    assert gain(degraded, degraded, normal(3, 2, 4, 4)).item() == 0


def test_gains_are_averaged_over_pictures_whatever_their_damage() -> None:
    clean = torch.zeros(2, 2, 4, 4)
    both = gain(offset(0.5, 0.1), offset(1.0, 0.2), clean).item()
    assert both == pytest.approx(6.02, abs=0.05)


def test_the_loss_is_the_mean_absolute_error() -> None:
    assert absolute_error(offset(0.5, 0.1), offset(0.0, 0.0)).item() == pytest.approx(0.3, abs=1e-3)


def test_a_perfect_estimate_has_a_gradient_without_nan() -> None:
    estimate = normal(1, 2, 4, 4).requires_grad_()
    absolute_error(estimate, estimate.detach()).backward()
    assert estimate.grad is not None
    assert estimate.grad.abs().max() == 0
