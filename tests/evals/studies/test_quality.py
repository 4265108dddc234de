"""Quality of the studies' results."""

from __future__ import annotations

import pytest

from evals.studies.pictures import MIXED_LEVELS, Tile
from evals.studies.quality import Quality, mean_quality, mixed_cases, score


def test_means_are_taken_metric_by_metric() -> None:
    mean = mean_quality([Quality(20, 0.5, 0.7), Quality(30, 0.6, 0.9)])
    assert (mean.psnr, mean.ssim, mean.fsim) == pytest.approx((25, 0.55, 0.8))
    assert mean.in_words() == ["25.00", "0.5500", "0.8000"]


def test_light_damage_scores_above_heavy(tiles: list[Tile]) -> None:
    cases = mixed_cases(tiles[:1])
    assert [case.level for case in cases] == list(MIXED_LEVELS)
    scores = [score(case.damaged, case.clean) for case in cases]
    assert scores[0].psnr > scores[1].psnr > scores[2].psnr
    assert scores[0].ssim > scores[2].ssim
    assert scores[0].fsim > scores[2].fsim
