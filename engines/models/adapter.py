"""DCP cross-attention: text and image tokens share a query, image K/V follow the time step.

Paper section 3.1. Two attentions are computed on one query and added; keys and values of the image
tokens pass an adaptive layer norm driven by the time embedding.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from engines.attention import attend
from engines.kernels import cross_attention


class AdaLayerNorm(nn.Module):
    """LayerNorm with scale and shift read off a time embedding; starts as a plain LayerNorm."""

    def __init__(self, width: int, time_dim: int) -> None:
        super().__init__()
        self.silu = nn.SiLU()
        self.linear = nn.Linear(time_dim, 2 * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)

    def modulation(self, temb: Tensor) -> Tensor:
        """Shift and scale that temb (B, time_dim) asks for, (B, 2 * width)."""
        return self.linear(self.silu(temb))

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """x (B, N, width), temb (B, time_dim) -> (B, N, width)."""
        shift, scale = self.modulation(temb).unsqueeze(1).chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


@dataclass(frozen=True, slots=True)
class Place:
    """Where an attention finds its own part of what was hoisted out of the steps."""

    group: int  # of attentions of one width
    index: int  # within the group
    start: int  # of its 4 * width values within the modulation


class Memory(NamedTuple):
    """Keys and values of attentions of one width W, which no step changes; L attentions.

    `text` (B, L, 2, T, W); `image` (B, L, 2, Q, W), normalised but not yet modulated.
    """

    text: Tensor
    image: Tensor


class Hoisted(NamedTuple):
    """What all cross-attentions need beside their input: the memory of each width, and (B, M)."""

    memory: tuple[Memory, ...]
    modulation: Tensor

    def tensors(self) -> list[Tensor]:
        """Modulation, then text and image memory of each width: the order of a graph's inputs."""
        return [self.modulation, *(tensor for own in self.memory for tensor in own)]


class DecoupledCrossAttention(nn.Module):
    """Processor of every cross-attention of the UNet: text attention plus image attention."""

    def __init__(self, width: int, context_dim: int, time_dim: int) -> None:
        super().__init__()
        self.width = width
        self.place = Place(0, 0, 0)
        self.to_k_ip = nn.Linear(context_dim, width, bias=False)
        self.to_v_ip = nn.Linear(context_dim, width, bias=False)
        self.ln_k_ip = AdaLayerNorm(width, time_dim)
        self.ln_v_ip = AdaLayerNorm(width, time_dim)

    def remember(self, attn: Any, text: Tensor, image_tokens: Tensor) -> Memory:
        """The part of the work that depends on no step; the memory of one attention (L = 1)."""
        image_key = self.ln_k_ip.norm(self.to_k_ip(image_tokens))
        image_value = self.ln_v_ip.norm(self.to_v_ip(image_tokens))
        return Memory(
            torch.stack([attn.to_k(text), attn.to_v(text)], dim=1).unsqueeze(1),
            torch.stack([image_key, image_value], dim=1).unsqueeze(1),
        )

    def modulation(self, temb: Tensor) -> Tensor:
        """Shift and scale of image keys, then of values: temb (B, E) -> (B, 4 * width)."""
        return torch.cat([self.ln_k_ip.modulation(temb), self.ln_v_ip.modulation(temb)], dim=-1)

    # `Attention` reads the accepted keywords off this signature, so it must not be `forward`.
    def __call__(
        self,
        attn: Any,  # diffusers' Attention, whose optional parts the type checker cannot rule out
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        temb: Tensor | None = None,
        image_tokens: Tensor | None = None,
        hoisted: Hoisted | None = None,
    ) -> Tensor:
        """hidden (B, N, W) -> (B, N, W).

        From text `encoder_hidden_states` (B, T, C), image_tokens (B, Q, C) and temb (B, E), or
        from what was hoisted out of the steps.
        """
        place = self.place
        if hoisted is not None:
            text, image = hoisted.memory[place.group]
            text, image = text[:, place.index], image[:, place.index]
            modulation = hoisted.modulation[:, place.start : place.start + 4 * self.width]
        else:
            assert encoder_hidden_states is not None, "text is needed where nothing is hoisted"
            assert image_tokens is not None, "image tokens are needed where nothing is hoisted"
            assert temb is not None, "a time embedding is needed where nothing is hoisted"
            own = self.remember(attn, encoder_hidden_states, image_tokens)
            text, image, modulation = own.text[:, 0], own.image[:, 0], self.modulation(temb)
        query = attn.to_q(hidden_states)
        attention = cross_attention.best_for(query, attn.heads)
        out = attention(
            query,
            text[:, 0],
            text[:, 1],
            image[:, 0],
            image[:, 1],
            modulation.unflatten(1, (4, self.width)),
            attn.heads,
        )
        return attn.to_out[1](attn.to_out[0](out))


class SelfAttention:
    """Plain self-attention that takes, and ignores, the keywords for the cross-attentions."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        temb: Tensor | None = None,
        image_tokens: Tensor | None = None,
        hoisted: Hoisted | None = None,
    ) -> Tensor:
        """hidden (B, N, W) -> (B, N, W)."""

        def heads(x: Tensor) -> Tensor:
            return rearrange(x, "b n (h d) -> b h n d", h=attn.heads)

        query, key = heads(attn.to_q(hidden_states)), heads(attn.to_k(hidden_states))
        out = attend(query, key, heads(attn.to_v(hidden_states)))
        return attn.to_out[1](attn.to_out[0](rearrange(out, "b h n d -> b n (h d)")))


def attach_adapter(unet: Any) -> None:
    """Give every attention of a diffusers UNet the processor it needs (in place).

    Cross-attentions are the odd places of `unet.attn_processors`, whose order (down, up, mid) also
    numbers the keys of `adapter.pt`.
    """
    time_dim = unet.time_embedding.linear_2.out_features
    context_dim = unet.config.cross_attention_dim
    processors: dict[str, Any] = {}
    groups: dict[int, list[str]] = {}
    start = 0
    for name in unet.attn_processors:
        if name.endswith("attn1.processor"):
            processors[name] = SelfAttention()
        else:
            width = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            own = DecoupledCrossAttention(width, context_dim, time_dim)
            members = groups.setdefault(width, [])
            own.place = Place(list(groups).index(width), len(members), start)
            members.append(name)
            start += 4 * width
            processors[name] = own
    unet.set_attn_processor(processors)
