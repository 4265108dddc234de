from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engines.attention import attend


def test_it_is_softmax_attention_scaled_by_the_root_of_the_width(
    random_tensor: Callable[..., Tensor],
) -> None:
    query, key, value = (
        random_tensor(1, 2, 3, 4),
        random_tensor(1, 2, 5, 4),
        random_tensor(1, 2, 5, 4),
    )
    scores = query @ key.transpose(-1, -2) / 2.0
    torch.testing.assert_close(attend(query, key, value), scores.softmax(dim=-1) @ value)
