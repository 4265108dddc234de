"""Perceiver resampler of DCP (paper section 3.1): vision features to a few image tokens."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from engines.attention import attend


@dataclass(frozen=True, slots=True)
class ResamplerConfig:
    """Sizes of a resampler; the defaults are the published ones beside DINOv2-large and SDXL."""

    width: int = 1280
    depth: int = 4
    heads: int = 20
    head_dim: int = 64
    queries: int = 64
    feature_dim: int = 1024
    output_dim: int = 2048
    ff_mult: int = 4


class PerceiverAttention(nn.Module):
    """Latent queries attend to the features and to themselves."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_dim
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, inner * 2, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        """features (B, N, W), latents (B, Q, W) -> (B, Q, W)."""
        latents = self.norm2(latents)
        query = self.to_q(latents)
        key, value = self.to_kv(torch.cat([self.norm1(features), latents], dim=1)).chunk(2, dim=-1)
        query, key, value = (
            rearrange(x, "b n (h d) -> b h n d", h=self.heads) for x in (query, key, value)
        )
        out = attend(query, key, value)
        return self.to_out(rearrange(out, "b h n d -> b n (h d)"))


def feed_forward(width: int, mult: int) -> nn.Sequential:
    """Pre-normalised two-layer perceptron without biases."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, width * mult, bias=False),
        nn.GELU(),
        nn.Linear(width * mult, width, bias=False),
    )


class Resampler(nn.Module):
    """Turns vision features (B, N, feature_dim) into image tokens (B, queries, output_dim)."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        self.latents = nn.Parameter(torch.randn(1, config.queries, width) / width**0.5)
        self.proj_in = nn.Linear(config.feature_dim, width)
        self.proj_out = nn.Linear(width, config.output_dim)
        self.norm_out = nn.LayerNorm(config.output_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PerceiverAttention(width, config.heads, config.head_dim),
                    feed_forward(width, config.ff_mult),
                ]
            )
            for _ in range(config.depth)
        )

    def forward(self, features: Tensor) -> Tensor:
        """features (B, N, feature_dim) -> tokens (B, queries, output_dim)."""
        latents = self.latents.expand(features.shape[0], -1, -1)
        features = self.proj_in(features)
        for layer in self.layers:
            attention, mlp = layer  # pyright: ignore[reportGeneralTypeIssues]  (ModuleList of pairs)
            latents = attention(features, latents) + latents
            latents = mlp(latents) + latents
        return self.norm_out(self.proj_out(latents))
