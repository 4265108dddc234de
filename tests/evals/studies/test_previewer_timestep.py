"""Variants of the previewer."""

from __future__ import annotations

import pytest

import engines
from evals.studies.pictures import Tile
from evals.studies.previewer_timestep import (
    MIDDLE,
    OWN,
    PLAIN,
    VARIANTS,
    Sample,
    draw,
    findings,
    means,
    measure,
    table,
)
from evals.studies.study import Bench


def samples(own: float, fixed: float, change: float = 1.0) -> list[Sample]:
    """References of 20 dB of the main network, of `own` and `fixed` dB of the previewer."""
    psnr = {**dict.fromkeys(VARIANTS, own), MIDDLE: fixed, PLAIN: 20.0}
    return [
        Sample("a", 0.5, name, 19, [value, value + 1], [change if name == OWN else 2.0], 22, 0.8)
        for name, value in psnr.items()
    ]


def test_means_are_over_pictures_and_steps() -> None:
    found = means(samples(21.0, 20.5))
    assert found[OWN].first == 21
    assert found[OWN].references == pytest.approx(21.5)
    assert found[OWN].change == 1
    assert [row[0] for row in table(samples(21.0, 20.5)).rows] == list(VARIANTS)
    assert len(draw(samples(21.0, 20.5)).axes) == 2


def test_the_verdicts_follow_the_figures() -> None:
    good = findings(samples(21.0, 20.5))
    assert "lose 0.50 dB" in good[0]
    assert "better references holds, that it gives steadier ones holds." in good[1]
    poor = findings(samples(19.0, 19.0, change=3.0))
    assert "lose nothing" in poor[0]
    assert "better references does not hold, that it gives steadier ones does not" in poor[1]


@pytest.mark.slow
def test_the_variants_make_different_references(
    restorer: engines.Restorer, tiles: list[Tile]
) -> None:
    found = measure(Bench(restorer, tiles[:1], "fast"))
    steps = restorer.params("fast").steps
    assert {len(s.references_psnr) for s in found} == {steps}
    heavy = {s.variant: tuple(s.references_psnr) for s in found if s.level == found[-1].level}
    assert len(set(heavy.values())) == len(VARIANTS)
