"""Latent codecs: pixels to latents and back, behind one small protocol."""

from typing import Any, Protocol

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F


class LatentCodec(Protocol):
    """Pixels (B, 3, H, W) in [-1, 1] <-> latents (B, channels, H / factor, W / factor)."""

    channels: int
    factor: int

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

    def noise_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """One latent's worth of standard normal noise."""
        return self.channels, height // self.factor, width // self.factor

    def moments(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the posterior, each (B, C, h, w), log-variance in [-30, 20]."""
        mean, logvar = self.vae.quant_conv(self.vae.encoder(pixels)).chunk(2, dim=1)
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
        return self.vae.decoder(self.vae.post_quant_conv(latents))

    def encoding_parts(self) -> list[nn.Module]:
        """What `encode` alone reads."""
        return [self.vae.encoder, self.vae.quant_conv]


class PatchCodec(nn.Module):
    """Lossless: every patch x patch block of pixels becomes one latent pixel."""

    def __init__(self, patch: int, scaling_factor: float) -> None:
        super().__init__()
        self.factor = patch
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
