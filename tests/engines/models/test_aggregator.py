from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from engines.models.aggregator import SFT, Aggregator, merge
from engines.restorer import Restorer

Make = Callable[..., Tensor]


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.inference_mode():
        yield


def embedding(restorer: Restorer, make: Make, rows: int) -> Tensor:
    pooled = make(rows, restorer.networks.text.widths[2])
    ids = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(rows, -1)
    return restorer.networks.aggregator.embed(torch.full((rows,), 300.0), pooled, ids)


def latents(restorer: Restorer, make: Make, size: tuple[int, int], rows: int = 1) -> Tensor:
    return make(rows, restorer.networks.codec.channels, *size)


def test_the_released_size_has_the_official_keys_and_shapes(published: dict[str, Any]) -> None:
    with torch.device("meta"):
        aggregator = Aggregator(published["sdxl_unet_config"])
    ours = {key: list(value.shape) for key, value in aggregator.state_dict().items()}
    assert ours == published["aggregator_pt"]


def test_merges_are_as_wide_inside_as_asked_for(either: Restorer) -> None:
    built = Aggregator(either.networks.denoiser.unet.config, sft_width=24)
    hidden = {
        tuple(value.shape[:2])
        for key, value in built.state_dict().items()
        if key.endswith("mlp_shared.0.weight")
    }
    widths = set(either.networks.denoiser.unet.config["block_out_channels"])
    assert hidden == {(24, width) for width in widths}


def test_a_fresh_aggregator_leaves_the_unet_alone(either: Restorer, random_tensor: Make) -> None:
    fresh = Aggregator(either.networks.denoiser.unet.config)
    pair = latents(either, random_tensor, (8, 8)), latents(either, random_tensor, (8, 8))
    residuals = fresh(*pair, embedding(either, random_tensor, 1))
    assert residuals
    assert all(not residual.any() for residual in residuals)


@pytest.mark.parametrize("size", [(8, 8), (4, 8), (12, 13), (8, 5)])
def test_there_is_one_residual_of_its_shape_for_every_skip_connection(
    either: Restorer, random_tensor: Make, size: tuple[int, int]
) -> None:
    denoiser, emb = either.networks.denoiser, embedding(either, random_tensor, 2)
    degraded = latents(either, random_tensor, size, 2)
    residuals = either.networks.aggregator(degraded, latents(either, random_tensor, size, 2), emb)
    shapes = []
    hooks = [
        module.register_forward_hook(lambda *call: shapes.append(call[-1].shape))
        for name, module in denoiser.unet.named_modules()
        if name == "mid_block"
    ]
    text = random_tensor(2, 3, either.networks.text.widths[1])
    out = denoiser(degraded, emb, text, text, residuals)
    hooks[0].remove()
    assert out.shape == degraded.shape
    assert shapes == [residuals[-1].shape]
    assert len(residuals) == len(either.networks.aggregator.controlnet_down_blocks) + 1
    assert residuals[0].shape[2:] == size


def test_a_latent_height_that_does_not_halve_evenly_does_not_fit_the_denoiser(
    either: Restorer, random_tensor: Make
) -> None:
    degraded, emb = latents(either, random_tensor, (10, 8)), embedding(either, random_tensor, 1)
    residuals = either.networks.aggregator(degraded, degraded, emb)
    text = random_tensor(1, 3, either.networks.text.widths[1])
    with pytest.raises(RuntimeError, match="size of tensor"):
        either.networks.denoiser(degraded, emb, text, text, residuals)


def test_the_transform_scales_and_shifts_by_the_condition(random_tensor: Make) -> None:
    transform = SFT(3)
    condition, features = random_tensor(2, 3, 5, 6), random_tensor(2, 3, 5, 6)
    weights = transform.state_dict()

    def convolved(x: Tensor, name: str) -> Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    hidden = F.silu(convolved(condition, "mlp_shared.0"))
    expected = features + features * convolved(hidden, "mul") + convolved(hidden, "add")
    torch.testing.assert_close(transform(condition, features), expected)
    assert hidden.shape[1] == 128


def test_a_transform_whose_branches_are_zero_passes_the_features_on(random_tensor: Make) -> None:
    transform = SFT(3)
    for branch in (transform.mul, transform.add):
        for parameter in branch.parameters():
            parameter.zero_()
    features = random_tensor(1, 3, 4, 4)
    assert torch.equal(transform(random_tensor(1, 3, 4, 4), features), features)


def test_a_fresh_merge_gives_zero(random_tensor: Make) -> None:
    transform, out = merge(8)
    features = random_tensor(1, 8, 4, 4)
    assert transform(features, features).any()
    assert not out(transform(features, features)).any()


def test_the_first_residual_is_the_reference_modulated_by_the_degraded_latents(
    either: Restorer, random_tensor: Make
) -> None:
    aggregator: Any = either.networks.aggregator
    degraded = latents(either, random_tensor, (8, 8))
    reference = latents(either, random_tensor, (8, 8))
    # Each half has its own first convolution; nothing has mixed them yet.
    transform, out = aggregator.controlnet_down_blocks[0]
    expected = out(transform(aggregator.conv_in(degraded), aggregator.ref_conv_in(reference)))
    residuals = aggregator(degraded, reference, embedding(either, random_tensor, 1))
    torch.testing.assert_close(residuals[0], expected)


def test_deeper_residuals_see_both_latents(either: Restorer, random_tensor: Make) -> None:
    aggregator, emb = either.networks.aggregator, embedding(either, random_tensor, 1)
    degraded, reference, other = (latents(either, random_tensor, (8, 8)) for _ in range(3))
    middle = aggregator(degraded, reference, emb)[-1]
    assert not torch.allclose(middle, aggregator(other, reference, emb)[-1], atol=1e-4)
    assert not torch.allclose(middle, aggregator(degraded, other, emb)[-1], atol=1e-4)
    assert not torch.allclose(middle, aggregator(reference, degraded, emb)[-1], atol=1e-4)


def test_rows_do_not_see_each_other(either: Restorer, random_tensor: Make) -> None:
    aggregator, emb = either.networks.aggregator, embedding(either, random_tensor, 2)
    degraded = latents(either, random_tensor, (8, 8), 2)
    reference = latents(either, random_tensor, (8, 8), 2)
    together = aggregator(degraded, reference, emb)
    alone = aggregator(degraded[1:], reference[1:], emb[1:])
    for ours, own in zip(together, alone, strict=True):
        torch.testing.assert_close(ours[1:], own, rtol=1e-4, atol=1e-4)


def test_text_reaches_it_through_the_pooled_embedding_alone(either: Restorer) -> None:
    keys = either.networks.aggregator.state_dict()
    assert any("attn1" in key for key in keys)
    assert not [key for key in keys if "attn2" in key]
