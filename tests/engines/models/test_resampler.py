from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from engines.models.denoiser import Denoiser
from engines.models.resampler import PerceiverAttention, Resampler, ResamplerConfig, feed_forward

TINY = ResamplerConfig(
    width=16, depth=2, heads=2, head_dim=8, queries=5, feature_dim=12, output_dim=20
)


def test_the_defaults_have_the_official_keys_and_shapes(
    full_size_denoiser: Denoiser, published: dict[str, Any]
) -> None:
    ours = {k: list(v.shape) for k, v in full_size_denoiser.resampler.state_dict().items()}
    assert ours == published["adapter_pt"]["image_proj"]


@pytest.mark.parametrize("patches", [1, 17, 40])
def test_any_number_of_features_becomes_the_same_number_of_tokens(
    patches: int, random_tensor: Callable[..., Tensor]
) -> None:
    assert Resampler(TINY)(random_tensor(3, patches, 12)).shape == (3, 5, 20)


def test_the_order_of_the_features_does_not_matter(random_tensor: Callable[..., Tensor]) -> None:
    resampler, features = Resampler(TINY), random_tensor(1, 9, 12)
    torch.testing.assert_close(resampler(features), resampler(features.flip(1)))


def test_rows_do_not_see_each_other(random_tensor: Callable[..., Tensor]) -> None:
    resampler, features = Resampler(TINY), random_tensor(3, 9, 12)
    alone = torch.cat([resampler(row) for row in features.split(1)])
    torch.testing.assert_close(resampler(features), alone)
    assert not torch.allclose(alone[0], alone[1])


def test_latent_queries_attend_to_features_and_to_themselves(
    random_tensor: Callable[..., Tensor],
) -> None:
    attention = PerceiverAttention(width=8, heads=1, head_dim=4)
    features, latents = random_tensor(1, 6, 8), random_tensor(1, 3, 8)
    own = attention.norm2(latents)
    everything = torch.cat([attention.norm1(features), own], dim=1)
    key, value = attention.to_kv(everything)[..., :4], attention.to_kv(everything)[..., 4:]
    weights = (attention.to_q(own) @ key.transpose(1, 2) / 2.0).softmax(dim=-1)
    assert weights.shape == (1, 3, 9)
    torch.testing.assert_close(
        attention(features, latents), attention.to_out(weights @ value), rtol=1e-4, atol=1e-5
    )


def test_every_layer_adds_to_the_latents(random_tensor: Callable[..., Tensor]) -> None:
    resampler = Resampler(TINY)
    with torch.no_grad():
        for name, parameter in resampler.named_parameters():
            if "to_out" in name or name.endswith("1.3.weight"):
                parameter.zero_()
    features = random_tensor(2, 7, 12)
    untouched = resampler.norm_out(resampler.proj_out(resampler.latents)).expand(2, -1, -1)
    torch.testing.assert_close(resampler(features), untouched)


def test_the_perceptron_has_no_biases_of_its_own(random_tensor: Callable[..., Tensor]) -> None:
    mlp, x = feed_forward(8, 4), random_tensor(1, 2, 8)
    assert set(mlp.state_dict()) == {"0.weight", "0.bias", "1.weight", "3.weight"}
    weights = mlp.state_dict()
    hidden = F.gelu(F.linear(F.layer_norm(x, (8,)), weights["1.weight"]))
    torch.testing.assert_close(mlp(x), F.linear(hidden, weights["3.weight"]))
