from copy import deepcopy

import pytest
import torch
from torch import Tensor

from engines.models.lora import LoraPair, fuse_lora, lora_targets
from tests.training.conftest import normal
from training.lora import PreviewerLora
from training.trainee import Trainee


def predicted(trainee: Trainee) -> Tensor:
    denoiser = trainee.denoiser
    text = denoiser.unet.config.cross_attention_dim
    pooled = trainee.text.widths[2]
    emb = denoiser.embed(torch.tensor([7.0]), normal(1, pooled), torch.full((1, 6), 256.0))
    latents, context = normal(1, trainee.codec.channels, 8, 8), normal(1, 5, text)
    return denoiser(latents, emb, context, normal(1, 4, text, seed=1))


def test_every_previewer_target_gets_an_update_and_nothing_else(trainee: Trainee) -> None:
    targets = lora_targets(trainee.denoiser.named_modules())
    assert len(targets) > 0
    assert list(trainee.lora.pairs()) == targets


@torch.no_grad()
def test_a_side_path_equals_the_weights_that_a_loader_fuses(trainee: Trainee) -> None:
    with trainee.lora.active():
        found = predicted(trainee)
    before = predicted(trainee)
    fuse_lora(trainee.denoiser, trainee.lora.pairs())
    torch.testing.assert_close(found, predicted(trainee), rtol=1e-4, atol=1e-5)
    assert (found - before).abs().max() > 1e-3


@torch.no_grad()
def test_a_fresh_update_changes_nothing(trainee: Trainee) -> None:
    for up in trainee.lora.up:
        up.zero_()
    before = predicted(trainee)
    with trainee.lora.active():
        assert torch.equal(predicted(trainee), before)


def test_the_side_paths_are_on_within_active_alone(trainee: Trainee) -> None:
    states = [trainee.lora.on]
    with trainee.lora.active():
        states.append(trainee.lora.on)
        with trainee.lora.active(on=False):
            states.append(trainee.lora.on)
        states.append(trainee.lora.on)
    assert [*states, trainee.lora.on] == [False, True, False, True, False]


@torch.no_grad()
def test_an_update_read_at_another_scale_keeps_its_effect(trainee: Trainee) -> None:
    pairs = trainee.lora.pairs()
    other = {name: LoraPair(p.down, p.up / 3, p.scale * 3) for name, p in pairs.items()}
    kept = deepcopy(list(trainee.lora.up))
    trainee.lora.fill(other)
    torch.testing.assert_close(list(trainee.lora.up), kept)


def test_the_scale_is_alpha_over_rank(trainee: Trainee) -> None:
    assert PreviewerLora(trainee.denoiser, rank=8, alpha=2.0).scale == 0.25


@pytest.mark.slow
@pytest.mark.parametrize("on", [True, False])
def test_checkpointed_gradients_are_those_of_the_forward_pass_that_was(
    trainee: Trainee, on: bool
) -> None:
    def gradients() -> list[Tensor]:
        trainee.zero_grad(set_to_none=True)
        with trainee.lora.active(on):
            loss = predicted(trainee).square().mean()
        loss.backward()
        named = trainee.named_parameters()
        return [p.grad.clone() for _, p in named if p.grad is not None]

    plain = gradients()
    trainee.checkpoint_gradients()
    again = gradients()
    assert len(again) == len(plain) > 0
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other)
