from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor
from torch.nn import functional as F

from engines.models.adapter import AdaLayerNorm, DecoupledCrossAttention, SelfAttention
from engines.models.denoiser import Denoiser
from engines.restorer import Restorer

HEADS = 2
WIDTH = 8
CONTEXT = 6
TIME = 10


@pytest.fixture
def attention() -> Attention:
    layer: Any = Attention(WIDTH, cross_attention_dim=CONTEXT, heads=HEADS, dim_head=WIDTH // HEADS)
    layer.set_processor(DecoupledCrossAttention(WIDTH, CONTEXT, TIME))
    return layer


def shake(processor: Any, random_tensor: Callable[..., Tensor]) -> None:
    """Move the adaptive norms away from their start at zero."""
    with torch.no_grad():
        for norm in (processor.ln_k_ip, processor.ln_v_ip):
            norm.linear.weight.copy_(random_tensor(*norm.linear.weight.shape))
            norm.linear.bias.copy_(random_tensor(*norm.linear.bias.shape))


def softmax_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention head by head, written out."""
    size = WIDTH // HEADS
    outs = []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        scores = query[..., part] @ key[..., part].transpose(1, 2) / size**0.5
        outs.append(scores.softmax(dim=-1) @ value[..., part])
    return torch.cat(outs, dim=-1)


def test_a_fresh_adaptive_norm_is_a_plain_layer_norm(random_tensor: Callable[..., Tensor]) -> None:
    norm, x = AdaLayerNorm(WIDTH, TIME), random_tensor(2, 5, WIDTH)
    out = norm(x, random_tensor(2, TIME))
    torch.testing.assert_close(out, F.layer_norm(x, (WIDTH,), eps=1e-6))


def test_the_adaptive_norm_reads_shift_and_scale_off_the_time_embedding(
    random_tensor: Callable[..., Tensor],
) -> None:
    norm = AdaLayerNorm(2, 1)
    with torch.no_grad():
        norm.linear.weight.copy_(torch.tensor([[1.0], [2.0], [3.0], [4.0]]))
        norm.linear.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.5]))
    x = torch.tensor([[[-3.0, 3.0]]])  # normalizes to -1, 1
    time = torch.tensor([[1.5]])
    s = float(F.silu(time))
    expected = torch.tensor([[[-(1 + 3 * s) + s, (1 + 4 * s + 0.5) + 2 * s]]])
    torch.testing.assert_close(norm(x, time), expected)


def test_the_attentions_to_text_and_to_image_tokens_are_added(
    attention: Any, random_tensor: Callable[..., Tensor]
) -> None:
    processor = attention.processor
    shake(processor, random_tensor)
    hidden, text = random_tensor(2, 7, WIDTH), random_tensor(2, 4, CONTEXT)
    tokens, temb = random_tensor(2, 3, CONTEXT), random_tensor(2, TIME)
    query = attention.to_q(hidden)
    to_text = softmax_attention(query, attention.to_k(text), attention.to_v(text))
    key = processor.ln_k_ip(processor.to_k_ip(tokens), temb)
    value = processor.ln_v_ip(processor.to_v_ip(tokens), temb)
    both = to_text + softmax_attention(query, key, value)
    ours = attention(hidden, encoder_hidden_states=text, temb=temb, image_tokens=tokens)
    torch.testing.assert_close(ours, attention.to_out[0](both))


def test_without_image_values_it_is_the_plain_text_attention(
    attention: Any, random_tensor: Callable[..., Tensor]
) -> None:
    processor = attention.processor
    with torch.no_grad():
        processor.to_v_ip.weight.zero_()
    hidden, text = random_tensor(1, 7, WIDTH), random_tensor(1, 4, CONTEXT)
    context = {"temb": random_tensor(1, TIME), "image_tokens": random_tensor(1, 3, CONTEXT)}
    ours = attention(hidden, encoder_hidden_states=text, **context)
    attention.set_processor(AttnProcessor2_0())
    torch.testing.assert_close(ours, attention(hidden, encoder_hidden_states=text))


def test_the_time_step_reaches_the_image_branch_alone(
    attention: Any, random_tensor: Callable[..., Tensor]
) -> None:
    processor = attention.processor
    hidden, text = random_tensor(1, 7, WIDTH), random_tensor(1, 4, CONTEXT)
    tokens, early, late = random_tensor(1, 3, CONTEXT), *random_tensor(2, 1, TIME)

    def out(temb: Tensor) -> Tensor:
        return attention(hidden, encoder_hidden_states=text, temb=temb, image_tokens=tokens)

    assert torch.equal(out(early), out(late))
    shake(processor, random_tensor)
    assert not torch.allclose(out(early), out(late))


def test_self_attention_takes_and_ignores_the_adapter_keywords(
    random_tensor: Callable[..., Tensor],
) -> None:
    layer: Any = Attention(WIDTH, heads=HEADS, dim_head=WIDTH // HEADS)
    layer.set_processor(SelfAttention())
    hidden = random_tensor(1, 7, WIDTH)
    plain = layer(hidden)
    context = {"temb": random_tensor(1, TIME), "image_tokens": random_tensor(1, 3, CONTEXT)}
    assert torch.equal(layer(hidden, **context), plain)


def test_cross_attentions_are_the_odd_places_and_the_middle_comes_last(
    nano_like: Restorer, full_size_denoiser: Denoiser, published: dict[str, Any]
) -> None:
    for denoiser in (nano_like.networks.denoiser, full_size_denoiser):
        processors = list(denoiser.unet.attn_processors.values())
        assert processors
        assert all(isinstance(p, SelfAttention) for p in processors[::2])
        assert all(isinstance(p, DecoupledCrossAttention) for p in processors[1::2])
    names = list(full_size_denoiser.unet.attn_processors)
    numbered = published["ip_adapter_index_to_attn_processor"]
    assert {str(i): name for i, name in enumerate(names)} == numbered
    assert names[-1].startswith("mid_block")
