"""Softmax attention, spelled such that compiled graphs keep it whole."""

import math

from torch import Tensor
from torch.nn import functional as F


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(query keyT / sqrt(d)) value; all (B, heads, tokens, d).

    The scale is given as a number: left out, a traced graph would compute it from shapes, by casts
    and roots that keep compilers from seeing an attention.
    """
    return F.scaled_dot_product_attention(query, key, value, scale=1 / math.sqrt(query.shape[-1]))
