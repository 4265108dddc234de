"""Latent codecs: pixels to latents and back, behind one small protocol."""

from collections.abc import Callable
from typing import Any, Final, Protocol

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from engines.tiling import Layout, Tiling, blend, plan_tiles

CODEC_TILING: Final = Tiling(tile_px=576, overlap_px=128)  # so 1024 px are two


class LatentCodec(Protocol):
    """Pixels (B, 3, H, W) in [-1, 1] <-> latents (B, channels, H / factor, W / factor)."""

    channels: int
    factor: int
    tiling: Tiling | None  # None: whole pictures, whatever their size

    def noise_shape(self, height: int, width: int) -> tuple[int, int, int] | None:
        """Shape of the noise that `encode` needs for one image; None where encoding is exact."""
        ...

    def encode(self, pixels: Tensor, noise: Tensor | None) -> Tensor:
        """Latents scaled to about unit variance; `noise` as `noise_shape` says."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels, not clamped."""
        ...

    def encoding_parts(self) -> list[nn.Module]:
        """What `encode` alone reads."""
        ...


class KLCodec(nn.Module):
    """SDXL's autoencoder; latents are a sample of the posterior, as in training."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.vae: Any = AutoencoderKL.from_config(config)
        self.channels = int(self.vae.config.latent_channels)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.tiling: Tiling | None = None

    def noise_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """One latent's worth of standard normal noise."""
        return self.channels, height // self.factor, width // self.factor

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, each (B, C, h, w), log-variance in [-30, 20]."""
        moments = self._in_tiles(self._encoded, pixels, 1, self.factor)
        mean, logvar = moments.chunk(2, dim=1)
        return mean, logvar.clamp(-30.0, 20.0)

    def encode(self, pixels: Tensor, noise: Tensor | None) -> Tensor:
        """Posterior sample times the scaling factor."""
        if noise is None:
            raise ValueError("the KL codec samples its posterior: noise is needed, got None")
        mean, logvar = self.moments(pixels)
        return (mean + torch.exp(0.5 * logvar) * noise) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels of scaled latents."""
        latents = latents / self.vae.config.scaling_factor
        return self._in_tiles(self._decoded, latents, self.factor, 1)

    def encoding_parts(self) -> list[nn.Module]:
        """What `encode` alone reads."""
        return [self.vae.encoder, self.vae.quant_conv]

    def _encoded(self, pixels: Tensor) -> Tensor:
        return self.vae.quant_conv(self.vae.encoder(pixels))

    def _decoded(self, latents: Tensor) -> Tensor:
        return self.vae.decoder(self.vae.post_quant_conv(latents))

    def _in_tiles(
        self, convert: Callable[[Tensor], Tensor], x: Tensor, before: int, after: int
    ) -> Tensor:
        """`convert` of x (B, C, h, w), tile by tile where there is a tiling and x is larger.

        A pixel of x is `before` pixels of the picture wide, one of the result `after`. Norms see
        one tile each, so the result differs a little from that of the whole.
        """
        if self.tiling is None:
            return convert(x)
        height, width = (side * before for side in x.shape[-2:])
        layout = plan_tiles((width, height), self.tiling)
        if len(layout.corners) == 1:
            return convert(x)
        taken = _shrunk(layout, before)
        tiles = [
            convert(x[:, :, top : top + taken.height, left : left + taken.width])
            for top, left in taken.corners
        ]
        return blend(tiles, _shrunk(layout, after), (width // after, height // after))


class PatchCodec(nn.Module):
    """Lossless: every patch x patch block of pixels becomes one latent pixel."""

    def __init__(self, patch: int, scaling_factor: float) -> None:
        super().__init__()
        self.factor = patch
        self.tiling: Tiling | None = None  # of no use: nothing is computed
        self.channels = 3 * patch * patch
        self.scaling_factor = scaling_factor

    def noise_shape(self, height: int, width: int) -> None:
        """Nothing is sampled."""
        del height, width

    def encode(self, pixels: Tensor, noise: Tensor | None) -> Tensor:
        """Rearranged and scaled pixels."""
        del noise
        return F.pixel_unshuffle(pixels, self.factor) * self.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """The exact inverse of `encode`."""
        return F.pixel_shuffle(latents / self.scaling_factor, self.factor)

    def encoding_parts(self) -> list[nn.Module]:
        """None: it has no weights."""
        return []


def _shrunk(layout: Layout, scale: int) -> Layout:
    """In pixels that are `scale` pixels of the picture wide."""
    corners = tuple((top // scale, left // scale) for top, left in layout.corners)
    return Layout(layout.height // scale, layout.width // scale, corners)
