"""Aggregator (paper section 3.3): degraded and reference latents to residuals for the UNet."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d_blocks import (
    CrossAttnDownBlock2D,
    DownBlock2D,
    UNetMidBlock2DCrossAttn,
)
from torch import Tensor, nn

from engines.models.adapter import SelfAttention
from engines.models.denoiser import time_embedding

SFT_WIDTH = 128  # as published


class SFT(nn.Module):
    """Spatial feature transform: the condition scales and shifts the features, place by place."""

    def __init__(self, channels: int, width: int = SFT_WIDTH) -> None:
        super().__init__()
        self.mlp_shared = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.SiLU())
        self.mul = nn.Conv2d(width, channels, 3, padding=1)
        self.add = nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, condition: Tensor, features: Tensor) -> Tensor:
        """condition and features (B, C, h, w) -> (B, C, h, w)."""
        hidden = self.mlp_shared(condition)
        return features * (self.mul(hidden) + 1) + self.add(hidden)


def merge(channels: int, width: int = SFT_WIDTH) -> nn.Sequential:
    """SFT and a 1x1 convolution that starts at zero, so that training starts at the UNet."""
    out = nn.Conv2d(channels, channels, 1)
    nn.init.zeros_(out.weight)
    nn.init.zeros_(out.bias)  # pyright: ignore[reportArgumentType]  (a Conv2d has a bias by default)
    return nn.Sequential(SFT(channels, width), out)


class Aggregator(nn.Module):
    """Encoder half of an SDXL UNet over both latents side by side, without text cross-attention.

    The latents are stacked along the height, so convolutions and self-attention see both; each
    output modulates the reference half by the degraded half. Latent heights must be multiples of
    2 ** (number of levels - 1); widths need not be.
    """

    def __init__(self, unet_config: Mapping[str, Any], sft_width: int = SFT_WIDTH) -> None:
        super().__init__()
        widths = list(unet_config["block_out_channels"])
        embed_dim = widths[0] * 4
        in_channels = unet_config["in_channels"]
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.ref_conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        flip, shift = unet_config["flip_sin_to_cos"], unet_config["freq_shift"]
        self.time_proj = Timesteps(widths[0], flip, shift)
        self.time_embedding = TimestepEmbedding(widths[0], embed_dim)
        self.add_time_proj = Timesteps(unet_config["addition_time_embed_dim"], flip, shift)
        add_dim = unet_config["projection_class_embeddings_input_dim"]
        self.add_embedding = TimestepEmbedding(add_dim, embed_dim)
        self.down_blocks = nn.ModuleList()
        merged = [widths[0]]
        for level, width in enumerate(widths):
            self.down_blocks.append(_down_block(unet_config, level, embed_dim))
            merged += [width] * (unet_config["layers_per_block"] + (level < len(widths) - 1))
        self.mid_block = UNetMidBlock2DCrossAttn(
            transformer_layers_per_block=_per_level(unet_config, "transformer_layers_per_block")[
                -1
            ],
            in_channels=widths[-1],
            temb_channels=embed_dim,
            resnet_eps=unet_config["norm_eps"],
            resnet_groups=unet_config["norm_num_groups"],
            num_attention_heads=_per_level(unet_config, "attention_head_dim")[-1],
            cross_attention_dim=None,  # pyright: ignore[reportArgumentType]  (None leaves it out)
            use_linear_projection=unet_config["use_linear_projection"],
        )
        for block in self.modules():
            if isinstance(block, Attention):
                block.set_processor(SelfAttention())  # pyright: ignore[reportArgumentType]  (any callable does)
        self.controlnet_down_blocks = nn.ModuleList(merge(width, sft_width) for width in merged)
        self.controlnet_mid_block = merge(widths[-1], sft_width)

    def embed(self, timesteps: Tensor, pooled: Tensor, time_ids: Tensor) -> Tensor:
        """The aggregator's own time embedding, (B, E); arguments as for `Denoiser.embed`."""
        return time_embedding(self, timesteps, pooled, time_ids)

    def hoisted_parts(self) -> list[nn.Module]:
        """What is read outside of the steps, by `embed`."""
        return [self.time_embedding, self.add_embedding]

    def forward(self, degraded: Tensor, reference: Tensor, emb: Tensor) -> list[Tensor]:
        """degraded and reference latents (B, C, h, w), emb (B, E) -> residuals, the middle last."""
        sample = torch.cat([self.conv_in(degraded), self.ref_conv_in(reference)], dim=2)
        features = [sample]
        for block in self.down_blocks:
            sample, outputs = block(sample, emb)
            features += outputs
        sample = self.mid_block(sample, emb)
        residuals = [
            _merge_halves(block, feature)
            for block, feature in zip(self.controlnet_down_blocks, features, strict=True)
        ]
        return [*residuals, _merge_halves(self.controlnet_mid_block, sample)]


def _per_level(config: Mapping[str, Any], key: str) -> list[int]:
    value = config[key]
    levels = len(config["block_out_channels"])
    return [value] * levels if isinstance(value, int) else list(value)


def _down_block(config: Mapping[str, Any], level: int, embed_dim: int) -> nn.Module:
    widths = list(config["block_out_channels"])
    shared: dict[str, Any] = {
        "in_channels": widths[max(level - 1, 0)],
        "out_channels": widths[level],
        "temb_channels": embed_dim,
        "num_layers": config["layers_per_block"],
        "resnet_eps": config["norm_eps"],
        "resnet_act_fn": config["act_fn"],
        "resnet_groups": config["norm_num_groups"],
        "add_downsample": level < len(widths) - 1,
        "downsample_padding": config["downsample_padding"],
    }
    if config["down_block_types"][level] == "DownBlock2D":
        return DownBlock2D(**shared)
    return CrossAttnDownBlock2D(
        **shared,
        transformer_layers_per_block=_per_level(config, "transformer_layers_per_block")[level],
        num_attention_heads=_per_level(config, "attention_head_dim")[level],
        cross_attention_dim=None,  # pyright: ignore[reportArgumentType]  (None leaves it out)
        use_linear_projection=config["use_linear_projection"],
    )


def _merge_halves(block: nn.Module, features: Tensor) -> Tensor:
    half = features.shape[2] // 2
    transform, out = block[0], block[1]  # pyright: ignore[reportIndexIssue]  (a Sequential)
    return out(transform(features[:, :, :half], features[:, :, -half:]))
