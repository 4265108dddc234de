"""The conditional UNet with its own resampler: the main network, and (LoRA fused) the previewer."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from engines.models.adapter import DecoupledCrossAttention, Hoisted, Memory, attach_adapter
from engines.models.resampler import Resampler, ResamplerConfig

Residuals = Sequence[Tensor]


def time_embedding(network: Any, timesteps: Tensor, pooled: Tensor, time_ids: Tensor) -> Tensor:
    """Embedding of time step, pooled text and SDXL's micro-conditioning, (B, E).

    `network` is anything with SDXL's embedding layers: the UNet or the aggregator.
    timesteps (B,) float, pooled (B, P), time_ids (B, 6) in pixels.
    """
    dtype, rows = pooled.dtype, time_ids.shape[0]  # `len` would be a constant in a traced graph
    emb = network.time_embedding(network.time_proj(timesteps).to(dtype))
    sizes = network.add_time_proj(time_ids.flatten()).reshape(rows, -1)
    return emb + network.add_embedding(torch.cat([pooled, sizes.to(dtype)], dim=-1))


class Denoiser(nn.Module):
    """SDXL-type UNet with DCP cross-attention and the resampler that makes its image tokens."""

    def __init__(self, unet_config: Mapping[str, Any], resampler: ResamplerConfig) -> None:
        super().__init__()
        self.unet: Any = UNet2DConditionModel.from_config(dict(unet_config))
        attach_adapter(self.unet)
        self.resampler = Resampler(resampler)

    def embed(self, timesteps: Tensor, pooled: Tensor, time_ids: Tensor) -> Tensor:
        """The time embedding that drives every block and the adaptive norms, (B, E)."""
        return time_embedding(self.unet, timesteps, pooled, time_ids)

    def remember(self, text: Tensor, image_tokens: Tensor) -> tuple[Memory, ...]:
        """Keys and values of all cross-attentions, by width; no step changes them.

        text (B, T, D), image_tokens (B, Q, D) of the resampler.
        """
        groups: dict[int, list[Memory]] = {}
        for attention in self._cross_attentions():
            own = attention.processor.remember(attention, text, image_tokens)
            groups.setdefault(attention.processor.place.group, []).append(own)
        return tuple(
            Memory(
                torch.cat([own.text for own in groups[group]], dim=1),
                torch.cat([own.image for own in groups[group]], dim=1),
            )
            for group in sorted(groups)
        )

    def modulate(self, emb: Tensor) -> Tensor:
        """What the adaptive norms of all cross-attentions read off emb (B, E), (B, M)."""
        attentions = self._cross_attentions()
        return torch.cat([attention.processor.modulation(emb) for attention in attentions], dim=-1)

    def attentions_by_width(self) -> dict[int, int]:
        """Width of each group of cross-attentions -> how many it has, in the order of groups."""
        counts: dict[int, int] = {}
        for attention in self._cross_attentions():
            width = attention.processor.width
            counts[width] = counts.get(width, 0) + 1
        return counts

    def remembering_parts(self) -> list[nn.Module]:
        """What is read before the first step alone: by the resampler and `remember`."""
        parts: list[nn.Module] = [self.resampler]
        for attention in self._cross_attentions():
            own = attention.processor
            parts += [attention.to_k, attention.to_v, own.to_k_ip, own.to_v_ip]
        return parts

    def hoisted_parts(self) -> list[nn.Module]:
        """What the networks of the steps do not read: theirs, and of `embed` and `modulate`."""
        norms = [attention.processor for attention in self._cross_attentions()]
        embedding = self.unet.time_embedding, self.unet.add_embedding
        return [*self.remembering_parts(), *embedding, *norms]

    def _cross_attentions(self) -> list[Any]:
        """In the order of their places."""
        return [
            self.unet.get_submodule(name.removesuffix(".processor"))
            for name, processor in self.unet.attn_processors.items()
            if isinstance(processor, DecoupledCrossAttention)
        ]

    def forward(
        self,
        sample: Tensor,
        emb: Tensor,
        text: Tensor,
        image_tokens: Tensor,
        residuals: Residuals | None = None,
        adapter_emb: Tensor | None = None,
    ) -> Tensor:
        """What the network predicts (engines.parameterization), (B, C, h, w).

        sample (B, C, h, w), emb (B, E) of `embed`, text (B, T, D), image_tokens (B, Q, D);
        residuals: the aggregator's outputs, one per skip connection and one for the middle;
        adapter_emb: another time embedding for the adaptive norms alone (default: `emb`).
        """
        temb = emb if adapter_emb is None else adapter_emb
        kwargs = {"image_tokens": image_tokens, "temb": temb}
        return self._walk(sample, emb, text, kwargs, residuals)

    def step(
        self,
        sample: Tensor,
        emb: Tensor,
        hoisted: Hoisted,
        residuals: Residuals | None = None,
    ) -> Tensor:
        """The same prediction from what `remember` and `modulate` have made."""
        return self._walk(sample, emb, None, {"hoisted": hoisted}, residuals)

    def _walk(
        self,
        sample: Tensor,
        emb: Tensor,
        text: Tensor | None,
        kwargs: Mapping[str, Any],
        residuals: Residuals | None,
    ) -> Tensor:
        unet = self.unet
        context = {"encoder_hidden_states": text, "cross_attention_kwargs": dict(kwargs)}
        sample = unet.conv_in(sample)
        skips = [sample]
        for block in unet.down_blocks:
            sample, outputs = block(sample, emb, **(context if _attends(block) else {}))
            skips += outputs
        sample = unet.mid_block(sample, emb, **context)
        if residuals is not None:
            *down, middle = residuals
            skips = [skip + residual for skip, residual in zip(skips, down, strict=True)]
            sample = sample + middle
        for block in unet.up_blocks:
            count = len(block.resnets)
            outputs, skips = skips[-count:], skips[:-count]
            # Sizes that do not halve evenly: tell the upsampler what the skip connection expects.
            size = skips[-1].shape[2:] if skips else None
            extra = context if _attends(block) else {}
            sample = block(sample, tuple(outputs), emb, upsample_size=size, **extra)
        return unet.conv_out(unet.conv_act(unet.conv_norm_out(sample)))


def _attends(block: nn.Module) -> bool:
    return bool(getattr(block, "has_cross_attention", False))
