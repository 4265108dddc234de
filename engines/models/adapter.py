"""DCP cross-attention: text and image tokens share a query, image K/V follow the time step.

Paper section 3.1. Two attentions are computed on one query and added; keys and values of the image
tokens pass an adaptive layer norm driven by the time embedding.
"""

from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F


class AdaLayerNorm(nn.Module):
    """LayerNorm with scale and shift read off a time embedding; starts as a plain LayerNorm."""

    def __init__(self, width: int, time_dim: int) -> None:
        super().__init__()
        self.silu = nn.SiLU()
        self.linear = nn.Linear(time_dim, 2 * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        """x (B, N, width), temb (B, time_dim) -> (B, N, width)."""
        shift, scale = self.linear(self.silu(temb)).unsqueeze(1).chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


class DecoupledCrossAttention(nn.Module):
    """Processor of every cross-attention of the UNet: text attention plus image attention."""

    def __init__(self, width: int, context_dim: int, time_dim: int) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(context_dim, width, bias=False)
        self.to_v_ip = nn.Linear(context_dim, width, bias=False)
        self.ln_k_ip = AdaLayerNorm(width, time_dim)
        self.ln_v_ip = AdaLayerNorm(width, time_dim)

    # `Attention` reads the accepted keywords off this signature, so it must not be `forward`.
    def __call__(
        self,
        attn: Any,  # diffusers' Attention, whose optional parts the type checker cannot rule out
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
        temb: Tensor | None = None,
        image_tokens: Tensor | None = None,
    ) -> Tensor:
        """hidden (B, N, W), text (B, T, C), image_tokens (B, Q, C), temb (B, E) -> (B, N, W)."""

        def heads(x: Tensor) -> Tensor:
            return rearrange(x, "b n (h d) -> b h n d", h=attn.heads)

        query = heads(attn.to_q(hidden_states))
        text_key = heads(attn.to_k(encoder_hidden_states))
        text_value = heads(attn.to_v(encoder_hidden_states))
        image_key = heads(self.ln_k_ip(self.to_k_ip(image_tokens), temb))
        image_value = heads(self.ln_v_ip(self.to_v_ip(image_tokens), temb))
        out = F.scaled_dot_product_attention(query, text_key, text_value)
        out = out + F.scaled_dot_product_attention(query, image_key, image_value)
        return attn.to_out[1](attn.to_out[0](rearrange(out, "b h n d -> b n (h d)")))


class SelfAttention(AttnProcessor2_0):
    """Plain self-attention that takes, and ignores, the keywords for the cross-attentions."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
        temb: Tensor | None = None,
        image_tokens: Tensor | None = None,
    ) -> Tensor:
        """hidden (B, N, W) -> (B, N, W)."""
        return super().__call__(attn, hidden_states)


def attach_adapter(unet: Any) -> None:
    """Give every attention of a diffusers UNet the processor it needs (in place).

    Cross-attentions are the odd places of `unet.attn_processors`, whose order (down, up, mid) also
    numbers the keys of `adapter.pt`.
    """
    time_dim = unet.time_embedding.linear_2.out_features
    context_dim = unet.config.cross_attention_dim
    processors: dict[str, Any] = {}
    for name in unet.attn_processors:
        if name.endswith("attn1.processor"):
            processors[name] = SelfAttention()
        else:
            width = unet.get_submodule(name.removesuffix(".processor")).to_q.out_features
            processors[name] = DecoupledCrossAttention(width, context_dim, time_dim)
    unet.set_attn_processor(processors)
