from __future__ import annotations

import pytest
import torch

from engines.restorer import Restorer

LENGTH = 32
END = -1  # the last word of the vocabulary ends and pads


@pytest.mark.parametrize(
    ("name", "widths"), [("nano_like", (LENGTH, 32, 16)), ("sdxl_like", (LENGTH, 40, 20))]
)
def test_both_hidden_states_stand_side_by_side(
    request: pytest.FixtureRequest, name: str, widths: tuple[int, int, int]
) -> None:
    text = request.getfixturevalue(name).networks.text
    hidden, pooled = text(["a bright photo", "night", "noisy"])
    assert text.widths == widths
    assert hidden.shape == (3, *widths[:2])
    assert pooled.shape == (3, widths[2])


@pytest.mark.parametrize("clip_skip", [0, 1, 2])
def test_clip_skip_takes_a_layer_further_from_the_end(either: Restorer, clip_skip: int) -> None:
    text = either.networks.text
    first_ids, second_ids = text.tokens(["a bright photo"])
    first = text.first(first_ids, output_hidden_states=True).hidden_states
    second = text.second(second_ids, output_hidden_states=True)
    assert len(first) == 4  # the embeddings and three layers
    layer = 2 - clip_skip
    wanted = torch.cat([first[layer], second.hidden_states[layer]], dim=-1)
    hidden, pooled = text(["a bright photo"], clip_skip)
    torch.testing.assert_close(hidden, wanted, rtol=0, atol=0)
    torch.testing.assert_close(pooled, second.text_embeds, rtol=0, atol=0)


def test_layers_differ(either: Restorer) -> None:
    text = either.networks.text
    layers = [text(["a bright photo"], skip)[0] for skip in range(3)]
    assert not torch.allclose(layers[0], layers[1], atol=1e-3)
    assert not torch.allclose(layers[1], layers[2], atol=1e-3)


def test_prompts_are_padded_to_the_length_of_the_model(either: Restorer) -> None:
    text = either.networks.text
    for ids in text.tokens(["", "photo", "sharp photo"]):
        end = len(text.tokenizers[0]) + END
        assert ids.shape == (3, LENGTH)
        assert ids[:, 0].tolist() == [end - 1] * 3
        assert [int((row == end).sum()) for row in ids] == [31, 30, 29]


def test_long_prompts_are_cut_and_still_end(either: Restorer) -> None:
    text = either.networks.text
    for ids in text.tokens(["photo " * 100]):
        end = len(text.tokenizers[0]) + END
        assert ids.shape == (1, LENGTH)
        assert ids[0, -1] == end
        assert (ids[0, :-1] != end).all()
    longer, shorter = text(["photo " * 100])[0], text(["photo " * 30])[0]
    assert torch.equal(longer, shorter)


def test_prompts_of_a_batch_do_not_see_each_other(either: Restorer) -> None:
    text = either.networks.text
    together, pooled = text(["a bright photo", "night"])
    for row, prompt in enumerate(["a bright photo", "night"]):
        hidden, own = text([prompt])
        torch.testing.assert_close(together[row : row + 1], hidden, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(pooled[row : row + 1], own, rtol=1e-5, atol=1e-5)


def test_other_words_have_other_embeddings(either: Restorer) -> None:
    (bright, night), (bright_pooled, night_pooled) = either.networks.text(["bright", "night"])
    assert not torch.allclose(bright, night, atol=1e-3)
    assert not torch.allclose(bright_pooled, night_pooled, atol=1e-3)


def test_tokens_come_to_where_it_is_computed_though_weights_are_at_home_elsewhere(
    either: Restorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, far = either.networks.text, torch.device("meta")
    monkeypatch.setattr(text, "encode", lambda first, second, _: (first, second))
    assert [ids.device for ids in text(["night"], device=far)] == [far, far]
