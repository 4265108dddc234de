"""The ablation of the aggregator's reference."""

from __future__ import annotations

import pytest

import engines
from evals.studies.aggregator_reference import (
    ALONE,
    DEGRADED,
    INPUT,
    PREVIEW,
    VARIANTS,
    Sample,
    draw,
    findings,
    gain,
    means,
    measure,
    table,
    wins,
)
from evals.studies.pictures import MIXED_LEVELS, Tile
from evals.studies.study import Bench


def samples(preview: float) -> list[Sample]:
    """The input has 20 dB, every variant 21, the usual way something else."""
    psnr = {INPUT: 20.0, **dict.fromkeys(VARIANTS, 21.0), PREVIEW: preview}
    return [
        Sample("a", level, variant, value + level, 0.8, 0.9)
        for level in MIXED_LEVELS
        for variant, value in psnr.items()
    ]


def test_gains_are_taken_at_one_level_against_its_input() -> None:
    assert gain(samples(22.0), PREVIEW, "psnr", 0.5) == pytest.approx(2)
    assert gain(samples(22.0), PREVIEW, "ssim", 0.5) == pytest.approx(0)
    assert means(samples(22.0))[DEGRADED].psnr == pytest.approx(21.5)
    assert wins(samples(22.0), PREVIEW, DEGRADED) == 1
    assert wins(samples(20.5), PREVIEW, DEGRADED) == 0


@pytest.mark.parametrize(
    ("preview", "verdict"),
    [(22.0, "holds in PSNR"), (21.01, "makes no difference"), (20.5, "does not hold")],
)
def test_the_verdict_follows_the_figures(preview: float, verdict: str) -> None:
    lines = findings(samples(preview))
    assert verdict in lines[0]
    assert f"by level: 0.2: {preview - 21:+.2f} dB, 0.5: " in lines[2]


def test_the_table_compares_with_the_input() -> None:
    rows = table(samples(22.0)).rows
    assert [row[0] for row in rows] == [INPUT, *VARIANTS]
    assert [row[-1] for row in rows[:2]] == ["+0.00", "+1.00"]
    assert len(draw(samples(22.0)).axes) == 2


@pytest.mark.slow
def test_the_variants_give_different_pictures(
    restorer: engines.Restorer, tiles: list[Tile]
) -> None:
    found = measure(Bench(restorer, tiles[:1], "fast"))
    heavy = {s.variant: s.psnr for s in found if s.level == MIXED_LEVELS[-1]}
    assert set(heavy) == {INPUT, *VARIANTS}
    assert len(set(heavy.values())) == len(heavy)
    assert heavy[ALONE] != heavy[PREVIEW]
