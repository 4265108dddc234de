from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image, ImageFilter

from evals.compare import (
    Method,
    Outcome,
    compare,
    groups,
    load_cases,
    mean_seconds,
    method_means,
)
from evals.metrics import METRICS, Picture, pixels, psnr
from evals.panel import Panel


def mean_level(picture: Picture) -> float:
    return float(pixels(picture).mean())


PANEL = Panel({name: METRICS[name] for name in ("psnr", "ssim")}, {"level": mean_level})


def sharpen(pictures: Sequence[Image.Image]) -> list[Image.Image]:
    return [picture.filter(ImageFilter.UnsharpMask(1.0, 60, 0)) for picture in pictures]


METHODS = {"input": Method("as it came", list), "sharpen": Method("unsharp mask", sharpen)}


def outcomes(photos: Path) -> list[Outcome]:
    return compare(METHODS, load_cases(photos), PANEL)


def test_every_method_gets_the_degraded_pictures_two_at_a_time(photos: Path) -> None:
    seen: list[list[Image.Image]] = []

    def watch(pictures: Sequence[Image.Image]) -> list[Image.Image]:
        seen.append(list(pictures))
        return list(pictures)

    cases = load_cases(photos)
    compare({"watch": Method("", watch)}, cases, PANEL)
    assert seen == [[cases[0].lq, cases[1].lq], [cases[2].lq]]


def test_results_are_measured_against_the_original_of_their_own_case(photos: Path) -> None:
    for outcome in outcomes(photos):
        case, result = outcome.case, outcome.results["sharpen"]
        assert result.scores["psnr"] == psnr(result.picture, case.hq)
        assert result.scores["level"] == mean_level(result.picture)
        assert result.scores["psnr"] > outcome.results["input"].scores["psnr"]
        assert outcome.original == {"level": mean_level(case.hq)}


def test_a_method_that_changes_the_size_is_refused(photos: Path) -> None:
    def crop(pictures: Sequence[Image.Image]) -> list[Image.Image]:
        return [picture.crop((0, 0, 44, 44)) for picture in pictures]

    with pytest.raises(ValueError, match="sizes differ"):
        compare({"crop": Method("", crop)}, load_cases(photos), PANEL)


def test_a_method_that_loses_a_picture_is_refused(photos: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare({"lose": Method("", lambda p: list(p)[1:])}, load_cases(photos), PANEL)


def test_means_are_given_for_all_and_for_each_severity(photos: Path) -> None:
    results = outcomes(photos)
    found = groups(results)
    assert {name: len(members) for name, members in found.items()} == {
        "all": 3,
        "light": 2,
        "heavy": 1,
    }
    values = [o.results["sharpen"].scores["ssim"] for o in results]
    assert method_means(found["all"])["sharpen"]["ssim"] == pytest.approx(sum(values) / 3)
    light = method_means(found["light"])["sharpen"]["ssim"]
    assert light == pytest.approx((values[0] + values[2]) / 2)
    assert method_means(found["heavy"])["sharpen"] == results[1].results["sharpen"].scores


def test_seconds_are_the_share_of_the_group(photos: Path) -> None:
    results = outcomes(photos)
    shares = [o.results["sharpen"].seconds for o in results]
    assert shares[0] == shares[1] > 0.0
    assert mean_seconds(results, "sharpen") == pytest.approx(sum(shares) / 3)


def test_a_folder_without_meta_or_pictures_is_told_apart(photos: Path) -> None:
    (photos / "meta.json").unlink()
    assert [c.severity for c in load_cases(photos, 2)] == ["", ""]
    with pytest.raises(FileNotFoundError, match="lq"):
        load_cases(photos / "lq")
