"""Choosing a way to sample by quality and cost."""

from __future__ import annotations

from evals.studies.quality import Quality
from evals.studies.tradeoff import CLOSE_DB, Point, choice, frontier


def point(way: str, evaluations: float, psnr: float, ssim: float = 0.8) -> Point:
    return Point(way, evaluations, evaluations / 10, Quality(psnr, ssim, 0.9))


def test_the_cheapest_close_to_the_best_is_chosen() -> None:
    ways = [point("dear", 90, 25.0), point("good", 24, 25.0 - CLOSE_DB / 2), point("bad", 3, 24.0)]
    assert choice(ways).way == "good"


def test_a_way_must_be_close_in_both_metrics() -> None:
    ways = [point("dear", 90, 25.0), point("cheap", 24, 25.0, ssim=0.7)]
    assert choice(ways).way == "dear"


def test_where_the_metrics_disagree_psnr_decides() -> None:
    ways = [point("sharp", 90, 24.0, ssim=0.9), point("exact", 24, 25.0, ssim=0.7)]
    assert choice(ways).way == "exact"


def test_the_frontier_leaves_out_what_a_cheaper_way_beats() -> None:
    ways = [point("dear", 90, 25), point("beaten", 50, 23), point("same cost", 24, 22)]
    ways += [point("middle", 24, 24), point("cheap", 3, 20)]
    assert [p.way for p in frontier(ways)] == ["cheap", "middle", "dear"]
