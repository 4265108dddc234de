from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from engines.models.adapter import Hoisted
from engines.models.denoiser import Denoiser
from engines.restorer import Restorer

pytestmark = pytest.mark.usefixtures("no_grad")
Make = Callable[..., Tensor]
ROWS = 2


@pytest.fixture
def no_grad() -> Any:
    with torch.inference_mode():
        yield


def context(restorer: Restorer, make: Make) -> dict[str, Tensor]:
    """Embedding inputs, text and image tokens of two rows."""
    _, width, pooled = restorer.networks.text.widths
    return {
        "timesteps": torch.tensor([501.0, 20.0]),
        "pooled": make(ROWS, pooled),
        "time_ids": torch.tensor([[64.0, 96, 0, 0, 64, 96], [32.0, 32, 8, 4, 64, 64]]),
        "text": make(ROWS, 5, width),
        "tokens": make(ROWS, 4, width),
    }


def sample_of(restorer: Restorer, make: Make, height: int, width: int) -> Tensor:
    return make(ROWS, restorer.networks.codec.channels, height, width)


def embedding(denoiser: Denoiser, given: dict[str, Tensor]) -> Tensor:
    return denoiser.embed(given["timesteps"], given["pooled"], given["time_ids"])


def residuals_of(restorer: Restorer, make: Make, latents: Tensor, emb: Tensor) -> list[Tensor]:
    return restorer.networks.aggregator(latents, make(*latents.shape), emb)


@pytest.mark.parametrize("size", [(8, 8), (8, 13), (4, 7), (7, 9), (16, 5)])
def test_every_latent_size_comes_back_as_it_was(
    either: Restorer, random_tensor: Make, size: tuple[int, int]
) -> None:
    denoiser, given = either.networks.denoiser, context(either, random_tensor)
    sample = sample_of(either, random_tensor, *size)
    out = denoiser(sample, embedding(denoiser, given), given["text"], given["tokens"])
    assert out.shape == sample.shape
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("with_residuals", [False, True])
def test_it_computes_what_the_unet_of_the_library_computes(
    either: Restorer, random_tensor: Make, with_residuals: bool
) -> None:
    denoiser, given = either.networks.denoiser, context(either, random_tensor)
    sample, emb = sample_of(either, random_tensor, 8, 10), embedding(denoiser, given)
    residuals = residuals_of(either, random_tensor, sample, emb) if with_residuals else None
    theirs = denoiser.unet(
        sample,
        given["timesteps"],
        given["text"],
        added_cond_kwargs={"text_embeds": given["pooled"], "time_ids": given["time_ids"]},
        cross_attention_kwargs={"image_tokens": given["tokens"], "temb": emb},
        down_block_additional_residuals=residuals[:-1] if residuals else None,
        mid_block_additional_residual=residuals[-1] if residuals else None,
    ).sample
    ours = denoiser(sample, emb, given["text"], given["tokens"], residuals)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_step_with_what_was_hoisted_computes_the_same(
    either: Restorer, random_tensor: Make
) -> None:
    denoiser, given = either.networks.denoiser, context(either, random_tensor)
    sample, emb = sample_of(either, random_tensor, 8, 10), embedding(denoiser, given)
    later = denoiser.embed(given["timesteps"] - 20, given["pooled"], given["time_ids"])
    residuals = residuals_of(either, random_tensor, sample, emb)
    memory = denoiser.remember(given["text"], given["tokens"])
    ours = denoiser.step(sample, emb, Hoisted(memory, denoiser.modulate(later)), residuals)
    whole = denoiser(sample, emb, given["text"], given["tokens"], residuals, later)
    torch.testing.assert_close(ours, whole, rtol=0, atol=0)


def test_residuals_of_zero_are_no_residuals(either: Restorer, random_tensor: Make) -> None:
    denoiser, given = either.networks.denoiser, context(either, random_tensor)
    sample, emb = sample_of(either, random_tensor, 8, 8), embedding(denoiser, given)
    residuals = residuals_of(either, random_tensor, sample, emb)
    plain = denoiser(sample, emb, given["text"], given["tokens"])
    zeros = [torch.zeros_like(residual) for residual in residuals]
    none = denoiser(sample, emb, given["text"], given["tokens"], zeros)
    some = denoiser(sample, emb, given["text"], given["tokens"], residuals)
    torch.testing.assert_close(none, plain, rtol=0, atol=0)
    assert not torch.allclose(some, plain, atol=1e-3)


def test_the_adaptive_norms_can_stand_at_a_time_step_of_their_own(
    either: Restorer, random_tensor: Make
) -> None:
    denoiser, given = either.networks.denoiser, context(either, random_tensor)
    sample, emb = sample_of(either, random_tensor, 8, 8), embedding(denoiser, given)
    later = denoiser.embed(given["timesteps"] - 20, given["pooled"], given["time_ids"])

    def out(time: Tensor, adapter: Tensor | None) -> Tensor:
        return denoiser(sample, time, given["text"], given["tokens"], None, adapter)

    assert torch.equal(out(emb, emb), out(emb, None))
    outs = [out(emb, emb), out(emb, later), out(later, emb), out(later, later)]
    for index, first in enumerate(outs):
        for second in outs[index + 1 :]:
            assert not torch.allclose(first, second, atol=1e-5)


def test_rows_at_different_time_steps_do_not_see_each_other(
    either: Restorer, random_tensor: Make
) -> None:
    denoiser, given = either.networks.denoiser, context(either, random_tensor)
    sample = sample_of(either, random_tensor, 8, 8)
    together = denoiser(sample, embedding(denoiser, given), given["text"], given["tokens"])
    for row in range(ROWS):
        own = {name: value[row : row + 1] for name, value in given.items()}
        emb = embedding(denoiser, own)
        alone = denoiser(sample[row : row + 1], emb, own["text"], own["tokens"])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changed", ["timesteps", "pooled", "time_ids"])
def test_each_of_its_inputs_moves_the_embedding(
    either: Restorer, random_tensor: Make, changed: str
) -> None:
    denoiser, given = either.networks.denoiser, context(either, random_tensor)
    before = embedding(denoiser, given)
    after = embedding(denoiser, {**given, changed: given[changed] * 0.5})
    assert before.shape == (ROWS, 64)
    assert not torch.allclose(before[0], after[0])
