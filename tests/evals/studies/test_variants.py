"""Ablations change what they say, and nothing after their block."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch

import engines
from evals.studies.pictures import Tile, damage
from evals.studies.runs import Run, restore_all
from evals.studies.variants import (
    fixed_timestep,
    reference_unseen,
    silent_aggregator,
    without_distillation,
)


def restored(restorer: engines.Restorer, tile: Tile) -> Run:
    params = restorer.params("fast", {"steps": 2})
    return restore_all(restorer, [damage(tile, "all", 0.5)], params, references=True)[0]


def differ(a: Run, b: Run) -> bool:
    return a.changes != b.changes or a.references[-1].tobytes() != b.references[-1].tobytes()


def test_a_fixed_time_step_reaches_the_previewer_alone(
    restorer: engines.Restorer, tiles: list[Tile]
) -> None:
    pooled = torch.zeros(1, 64)
    ids, step = torch.zeros(1, 6), torch.tensor([3.0])
    plain = restorer.previewer.embed(step, pooled, ids)
    main = restorer.networks.denoiser.embed(step, pooled, ids)
    usual = restored(restorer, tiles[0])
    with fixed_timestep(restorer, 700):
        fixed = restorer.previewer.embed(step, pooled, ids)
        assert torch.equal(restorer.networks.denoiser.embed(step, pooled, ids), main)
        assert differ(restored(restorer, tiles[0]), usual)
    assert torch.equal(fixed, restorer.previewer.embed(torch.tensor([700.0]), pooled, ids))
    assert torch.equal(restorer.previewer.embed(step, pooled, ids), plain)


def test_without_distillation_the_main_network_previews(
    restorer: engines.Restorer, tiles: list[Tile]
) -> None:
    plain = without_distillation(restorer)
    assert plain.previewer is restorer.networks.denoiser
    assert differ(restored(plain, tiles[0]), restored(restorer, tiles[0]))


@pytest.mark.parametrize("change", [reference_unseen, silent_aggregator])
def test_the_aggregator_changes_within_the_block_only(
    change: Callable[[engines.Restorer], AbstractContextManager[None]], restorer: engines.Restorer
) -> None:
    aggregator = restorer.networks.aggregator
    channels = aggregator.conv_in.in_channels
    torch.manual_seed(0)
    degraded, reference = torch.randn(2, 1, channels, 16, 16)
    emb = aggregator.embed(torch.tensor([3.0]), torch.zeros(1, 64), torch.zeros(1, 6))
    with torch.inference_mode():
        before = aggregator(degraded, reference, emb)
        alone = aggregator(degraded, degraded, emb)
        with change(restorer):
            within = aggregator(degraded, reference, emb)
        after = aggregator(degraded, reference, emb)
    expected = alone if change is reference_unseen else [torch.zeros_like(r) for r in before]
    assert all(torch.equal(a, b) for a, b in zip(within, expected, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(within, before, strict=True))
