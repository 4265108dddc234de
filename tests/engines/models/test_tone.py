from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from engines.models.tone import Tone

Make = Callable[..., Tensor]


@pytest.fixture
def tone(random_tensor: Make) -> Tone:
    tone = Tone(text_width=6, channels=4, hidden=5)
    with torch.no_grad():
        tone.speak.weight.copy_(random_tensor(*tone.speak.weight.shape))
    return tone


def test_a_fresh_one_changes_nothing(random_tensor: Make) -> None:
    latents = random_tensor(2, 4, 3, 3)
    changed = Tone(text_width=6, channels=4, hidden=5)(latents, random_tensor(2, 7, 6))
    torch.testing.assert_close(changed, latents, rtol=0, atol=0)


def test_a_text_is_one_affine_map_of_every_latent_pixel(tone: Tone, random_tensor: Make) -> None:
    text, latents = random_tensor(1, 7, 6), random_tensor(1, 4, 2, 3)
    shift = tone(torch.zeros(1, 4, 1, 1), text)
    columns = torch.cat([tone(unit.view(1, 4, 1, 1), text) - shift for unit in torch.eye(4)])
    expected = torch.einsum("jihw,bjyx->biyx", columns, latents) + shift
    torch.testing.assert_close(tone(latents, text), expected, rtol=1e-4, atol=1e-5)


def test_where_a_word_stands_does_not_matter(tone: Tone, random_tensor: Make) -> None:
    text, latents = random_tensor(1, 7, 6), random_tensor(1, 4, 3, 3)
    torch.testing.assert_close(tone(latents, text), tone(latents, text.flip(1)))


def test_rows_listen_to_their_own_text(tone: Tone, random_tensor: Make) -> None:
    text, latents = random_tensor(2, 7, 6), random_tensor(2, 4, 3, 3)
    alone = torch.cat([tone(latents[i : i + 1], text[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(tone(latents, text), alone)
    assert not torch.allclose(tone(latents[:1], text[:1]), tone(latents[:1], text[1:]))
