"""How far damage moves pictures in a space."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import engines
from evals.studies.dcp_robustness import (
    LATENTS,
    SPACES,
    TOKENS,
    VISION,
    Sample,
    displacement,
    findings,
    moved_by,
    spaces,
    table,
)
from evals.studies.pictures import KINDS, LEVELS, Tile


def test_distances_are_those_of_a_drawing_on_paper() -> None:
    clean = torch.tensor([[3.0, 4.0], [-3.0, 4.0]])  # length 5, 6 apart
    damaged = torch.tensor([[3.0, 4.0], [0.6, 4.0]])  # the second one has crossed over
    sample = displacement(LATENTS, "blur", 1.0, damaged, clean)
    assert sample.relative == pytest.approx(3.6 / 5 / 2)
    assert sample.separation == pytest.approx(1.8 / 6)
    assert sample.spread == pytest.approx(6 / 5)
    assert sample.found == 0.5
    cosine = (-1.8 + 16) / (5 * (0.36 + 16) ** 0.5)
    assert sample.cosine == pytest.approx((1 - cosine) / 2, abs=1e-6)


def test_every_picture_is_a_row_in_every_space(
    restorer: engines.Restorer, tiles: list[Tile]
) -> None:
    found = spaces(restorer, [tile.clean for tile in tiles], restorer.params("fast"))
    assert set(found) == set(SPACES)
    for rows in found.values():
        assert rows.shape[0] == len(tiles)
        assert torch.cdist(rows, rows)[0, 1] > 0
    features = restorer.networks.vision(restorer.networks.vision.pixels_of(tiles[1].clean))
    assert torch.allclose(found[VISION][1], features.flatten(), atol=1e-4)


def samples(tokens: float, spread: float = 1.0) -> list[Sample]:
    """Everything moves by 0.5 of the separation, tokens by something else."""
    like = Sample(LATENTS, "blur", 0.2, 0.1, 0.01, 0.5, spread, 0.9)
    return [
        replace(like, space=s, kind=k, level=v, separation=tokens if s == TOKENS else 0.5)
        for k in KINDS
        for v in LEVELS
        for s in SPACES
    ]


def test_the_verdict_follows_the_figures() -> None:
    steady, shaky = " ".join(findings(samples(0.2))), " ".join(findings(samples(0.8)))
    assert "steadier than the latents" in steady
    assert "takes away from" in steady
    assert "less steady than the latents" in shaky
    assert "does not hold" in shaky
    assert "adds to" in shaky
    assert "the same for every picture" not in steady
    assert "the same for every picture" in " ".join(findings(samples(0.2, spread=0.02)))


def test_the_table_has_a_row_for_each_space_and_kind() -> None:
    rows = table(samples(0.2)).rows
    assert len(rows) == len(SPACES) * len(KINDS)
    assert rows[0][0] == "latents, blur"
    assert moved_by(samples(0.2), TOKENS, "jpeg") == pytest.approx(0.2)
