from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from engines.models.autoencoder import KLCodec, LatentCodec, PatchCodec
from engines.restorer import Restorer
from engines.tiling import Tiling

Make = Callable[..., Tensor]
SCALE = 0.13025


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture
def codec(sdxl_like: Restorer) -> KLCodec:
    found = sdxl_like.networks.codec
    assert isinstance(found, KLCodec)
    return found


@pytest.fixture
def local(codec: KLCodec) -> KLCodec:
    """One whose pixels depend on near ones alone: without norms and attention."""
    own = copy.deepcopy(codec)
    for part in (own.vae.encoder, own.vae.decoder):
        part.mid_block.attentions[0] = None
        for layer in list(part.modules()):
            for name, norm in layer.named_children():
                if isinstance(norm, torch.nn.GroupNorm):
                    setattr(layer, name, torch.nn.Identity())
    return own


def in_tiles(codec: KLCodec) -> KLCodec:
    own = copy.deepcopy(codec)
    own.tiling = Tiling(tile_px=128, overlap_px=64)
    return own


@pytest.mark.parametrize(("patch", "scale"), [(4, 2.0), (2, 0.5), (1, 1.0)])
def test_patches_come_back_bit_by_bit(patch: int, scale: float, random_tensor: Make) -> None:
    codec = PatchCodec(patch, scale)
    pixels = random_tensor(2, 3, 8, 12)
    latents = codec.encode(pixels, None)
    assert latents.shape == (2, codec.channels, 8 // codec.factor, 12 // codec.factor)
    assert torch.equal(codec.decode(latents), pixels)


def test_a_latent_pixel_holds_one_block_of_pixels(random_tensor: Make) -> None:
    pixels = random_tensor(1, 3, 8, 8)
    latents = PatchCodec(4, 2.0).encode(pixels, None)
    block = pixels[0, :, 4:8, 0:4].reshape(-1) * 2
    assert torch.equal(latents[0, :, 1, 0], block)


def test_patches_need_no_noise_and_have_no_weights() -> None:
    codec = PatchCodec(4, 2.0)
    assert codec.noise_shape(64, 96) is None
    assert list(codec.parameters()) == []


def test_the_posterior_is_the_one_of_the_library(codec: KLCodec, random_tensor: Make) -> None:
    pixels = random_tensor(2, 3, 16, 24)
    mean, logvar = codec.moments(pixels)
    theirs = codec.vae.encode(pixels).latent_dist
    torch.testing.assert_close(mean, theirs.mean)
    torch.testing.assert_close(logvar, theirs.logvar)
    assert mean.shape == (2, 4, 4, 6)


def test_a_sample_is_mean_plus_deviation_times_noise_scaled(
    codec: KLCodec, random_tensor: Make
) -> None:
    pixels = random_tensor(1, 3, 16, 24)
    noise = random_tensor(1, *codec.noise_shape(16, 24))
    mean, logvar = codec.moments(pixels)
    expected = (mean + logvar.exp().sqrt() * noise) * SCALE
    torch.testing.assert_close(codec.encode(pixels, noise), expected)
    torch.testing.assert_close(codec.encode(pixels, torch.zeros_like(noise)), mean * SCALE)


def test_the_log_variance_is_kept_within_bounds(codec: KLCodec, random_tensor: Make) -> None:
    extreme = copy.deepcopy(codec)
    extreme.vae.quant_conv.weight.zero_()
    extreme.vae.quant_conv.bias.copy_(torch.tensor([100.0] * 4 + [-100.0, 100.0, -30.5, 3.0]))
    mean, logvar = extreme.moments(random_tensor(1, 3, 8, 8))
    assert (mean == 100).all()
    assert logvar[0, :, 0, 0].tolist() == [-30, 20, -30, 3]


def test_sampling_without_noise_is_refused(codec: KLCodec, random_tensor: Make) -> None:
    with pytest.raises(ValueError, match="noise is needed, got None"):
        codec.encode(random_tensor(1, 3, 8, 8), None)


def test_decoding_undoes_the_scale_first(codec: KLCodec, random_tensor: Make) -> None:
    latents = random_tensor(1, 4, 3, 5)
    theirs = codec.vae.decode(latents / SCALE).sample
    torch.testing.assert_close(codec.decode(latents), theirs)
    assert theirs.shape == (1, 3, 12, 20)


def test_both_kinds_say_how_much_smaller_latents_are(either: Restorer) -> None:
    codec: LatentCodec = either.networks.codec
    shape = codec.noise_shape(32, 48)
    noise = None if shape is None else torch.zeros(1, *shape)
    latents: Any = codec.encode(torch.zeros(1, 3, 32, 48), noise)
    assert latents.shape == (1, codec.channels, 32 // codec.factor, 48 // codec.factor)
    assert codec.decode(latents).shape == (1, 3, 32, 48)


def test_tiles_are_put_together_where_they_were_taken(local: KLCodec, random_tensor: Make) -> None:
    pixels, noise = random_tensor(2, 3, 192, 256), random_tensor(2, *local.noise_shape(192, 256))
    latents, tiled = local.encode(pixels, noise), in_tiles(local)
    for got, whole in (
        (tiled.encode(pixels, noise), latents),
        (tiled.decode(latents), local.decode(latents)),
    ):
        assert got.shape == whole.shape
        assert 0 < (got - whole).norm() < 0.05 * whole.norm()


def test_far_from_others_a_tile_is_what_it_is_alone(codec: KLCodec, random_tensor: Make) -> None:
    tiled, factor = in_tiles(codec), codec.factor
    latents = random_tensor(1, 4, 192 // factor, 128 // factor)
    decoded, alone = tiled.decode(latents), codec.decode(latents[:, :, : 128 // factor])
    torch.testing.assert_close(decoded[:, :, :64], alone[:, :, :64])
    assert not torch.allclose(decoded[:, :, 64:128], alone[:, :, 64:])


def test_what_fits_one_tile_is_not_touched(codec: KLCodec, random_tensor: Make) -> None:
    latents = random_tensor(1, 4, 128 // codec.factor, 64 // codec.factor)
    assert torch.equal(in_tiles(codec).decode(latents), codec.decode(latents))
