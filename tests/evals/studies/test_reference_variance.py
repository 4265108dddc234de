"""Variance of the references against damage."""

from __future__ import annotations

import pytest

import engines
from evals.studies.pictures import KINDS, LEVELS, Tile
from evals.studies.ranks import mean_within
from evals.studies.reference_variance import (
    Sample,
    draw,
    findings,
    growth,
    measure,
    ranks,
    table,
    tells,
)
from evals.studies.study import Bench


def samples(falling: str = "") -> list[Sample]:
    """Two pictures, one ten times as busy; variance rises with the level, or falls."""
    return [
        Sample(picture, kind, level, 30 - 10 * level, [scale * v, 3 * scale * v])
        for picture, scale in (("plain", 1.0), ("busy", 10.0))
        for kind in KINDS
        for level in LEVELS
        for v in [1 - level / 2 if kind == falling else level]
    ]


def test_content_hides_in_the_pooled_correlation_but_not_within_a_picture() -> None:
    found = ranks([s for s in samples() if s.kind == "blur"])
    assert found.within == pytest.approx(1)
    assert 0 < found.pooled < 0.9
    assert found.loss == pytest.approx(found.pooled)


def test_the_verdict_names_the_kinds_that_it_cannot_tell() -> None:
    assert findings(samples())[-1].startswith("The variance tells every kind")
    assert "but not of noise: " in findings(samples("noise"))[-1]
    noise = [line for line in findings(samples("noise")) if line.startswith("noise: ")]
    assert noise == [
        "noise: the worst level has 0.56 times the variance of the least "
        "(rank correlation within a picture -1.00)."
    ]


def test_a_rise_too_small_to_see_tells_nothing() -> None:
    slight = [Sample("a", "jpeg", v, 30, [1 + v / 100]) for v in LEVELS]
    assert mean_within([0] * 5, LEVELS, [s.variance for s in slight]) == pytest.approx(1)
    assert not tells(slight)
    assert growth(slight) == pytest.approx(1.01 / 1.002)
    assert tells([s for s in samples() if s.kind == "jpeg"])


def test_the_table_has_a_row_for_each_kind_and_one_for_all() -> None:
    rows = table(samples()).rows
    assert [row[0] for row in rows] == [*KINDS, "overall"]
    assert rows[0][1] == f"{(0.4 + 4) / 2:.2e}"
    assert len(draw(samples()).axes) == 2


@pytest.mark.slow
def test_every_restoration_gives_its_changes(restorer: engines.Restorer, tiles: list[Tile]) -> None:
    found = measure(Bench(restorer, tiles[:1], "fast"))
    assert len(found) == len(KINDS) * len(LEVELS)
    steps = restorer.params("fast").steps
    assert {len(s.changes) for s in found} == {steps - 1}
