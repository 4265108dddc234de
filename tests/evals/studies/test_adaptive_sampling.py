"""Ways to sample, their quality and cost."""

from __future__ import annotations

import pytest

import engines
from evals.studies.adaptive_sampling import (
    ADAPTIVE,
    BASE,
    INPUT,
    WAYS,
    Sample,
    draw,
    findings,
    measure,
    points,
    table,
)
from evals.studies.pictures import Tile
from evals.studies.study import Bench


def samples(adaptive: float) -> list[Sample]:
    """The published way has 25 dB at 90 evaluations, adaptive ones `adaptive`, others 24."""
    rows = [Sample("a", 0.5, INPUT, 0, 0.0, 23.0, 0.8, 0.9)]
    for way in WAYS:
        psnr = 25.0 if way.name == BASE else adaptive if way.family == ADAPTIVE else 24.0
        cost = 90 if way.name == BASE else 24
        rows += [
            Sample(picture, 0.5, way.name, cost, cost / 100, psnr + shift, 0.8, 0.9)
            for picture, shift in (("a", -1), ("b", 1))
        ]
    return rows


def test_points_are_means_in_the_order_of_the_ways() -> None:
    found = points(samples(25.0))
    assert [point.way for point in found] == [INPUT, *(way.name for way in WAYS)]
    assert found[1].quality.psnr == pytest.approx(25)
    assert found[1].evaluations == 90


def test_time_is_relative_to_the_published_way() -> None:
    rows = {row[0]: row for row in table(samples(25.0)).rows}
    assert rows[BASE][-1] == "1.000"
    assert rows["4 steps"][-1] == "0.267"
    assert len(draw(samples(25.0)).axes) == 2


def test_the_verdict_and_the_choice_follow_the_figures() -> None:
    good = findings(samples(25.5))
    assert f"helps with {BASE}: +0.50 dB" in good[0]
    assert "for 27% of the evaluations" in good[0]
    assert "choose **faithful, official adaptive**" in good[-1]
    assert "With reuse in faithful a picture costs 24.0 at level 0.5 evaluations." in good
    poor = findings(samples(22.0))
    assert f"harms with {BASE}: -3.00 dB" in poor[0]
    assert f"choose **{BASE}**" in poor[-1]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_ways_cost_what_their_steps_and_switches_say(
    restorer: engines.Restorer, tiles: list[Tile]
) -> None:
    found = {point.way: point for point in points(measure(Bench(restorer, tiles[:1])))}
    guided = 2 if restorer.params("balanced").guidance_scale > 1 else 1
    assert found["1 step"].evaluations == 3 * guided
    assert found["2 steps"].evaluations == 6 * guided
    assert found[f"{BASE}, official adaptive"].evaluations <= found[BASE].evaluations
    assert found[f"{BASE}, reuse"].evaluations < found[BASE].evaluations
    assert found[INPUT].seconds == 0
    assert found["2 steps"].quality.psnr != found["1 step"].quality.psnr
