import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from evals import quality
from evals.metrics import METRICS, psnr

SIDE = 48


@dataclass
class Progress:
    image: Image.Image
    steps: int
    step: int = 0

    @property
    def done(self) -> bool:
        return self.step >= self.steps


@dataclass
class Sharpener:
    """Stands in for an engine: every step is one unsharp mask; later pictures take more steps."""

    name: str = "sharpener"
    fingerprint: str = "0123"
    groups: list[int] = field(default_factory=list[int])
    begun: int = 0

    def params(self, preset: str | None, overrides: dict[str, Any]) -> Any:
        return SimpleNamespace(as_dict=lambda: {"preset": preset, **overrides})

    def begin(self, image: Image.Image, params: Any) -> Progress:
        self.begun += 1
        return Progress(image, steps=self.begun)

    def step(self, restorations: list[Progress]) -> list[Any]:
        self.groups.append(len(restorations))
        for progress in restorations:
            assert not progress.done
            progress.image = progress.image.filter(ImageFilter.UnsharpMask(1.0, 60, 0))
            progress.step += 1
        return [None] * len(restorations)

    def finish(self, restoration: Progress) -> Image.Image:
        return restoration.image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for side in ("lq", "hq"):
        (tmp_path / side).mkdir()
    for index in range(3):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        clean = small.resize((SIDE, SIDE), Image.Resampling.NEAREST)
        clean.save(tmp_path / "hq" / f"{index}.png")
        clean.filter(ImageFilter.GaussianBlur(1.2)).save(tmp_path / "lq" / f"{index}.png")
    rows = [{"file": f"{i}.png", "severity": s} for i, s in enumerate(["light", "heavy", "light"])]
    (tmp_path / "meta.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path


def outcomes(photos: Path) -> list[quality.Outcome]:
    return quality.evaluate(Sharpener(), quality.load_cases(photos), None)


def test_pictures_are_stepped_two_at_a_time_until_each_is_done(photos: Path) -> None:
    engine = Sharpener()
    quality.evaluate(engine, quality.load_cases(photos), None)
    assert engine.groups == [2, 1, 1, 1, 1]


def test_scores_compare_input_and_result_with_the_original(photos: Path) -> None:
    for outcome in outcomes(photos):
        case = outcome.case
        assert outcome.input_scores["psnr"] == psnr(case.lq, case.hq)
        assert outcome.model_scores["psnr"] == psnr(outcome.restored, case.hq)
        assert outcome.model_scores["psnr"] > outcome.input_scores["psnr"]


def test_means_are_given_for_all_and_for_each_severity(photos: Path) -> None:
    results = outcomes(photos)
    summary = quality.summarize(results)
    assert list(summary) == ["all", "light", "heavy"]
    values = [o.model_scores["ssim"] for o in results]
    assert summary["all"]["model"]["ssim"] == pytest.approx(sum(values) / 3)
    assert summary["light"]["model"]["ssim"] == pytest.approx((values[0] + values[2]) / 2)
    assert summary["heavy"]["model"] == pytest.approx(results[1].model_scores)


def test_the_table_has_two_rows_for_each_group_and_picture(photos: Path) -> None:
    lines = quality.to_markdown(outcomes(photos)).splitlines()
    assert len(lines) == 2 + 2 * (3 + 3)
    assert {line.count("|") for line in lines} == {len(METRICS) + 3}
    assert "mean of light (2)" in lines[4]


def test_a_folder_without_meta_or_pictures_is_told_apart(photos: Path, tmp_path: Path) -> None:
    (photos / "meta.json").unlink()
    assert [c.severity for c in quality.load_cases(photos, 2)] == ["", ""]
    with pytest.raises(FileNotFoundError, match="lq"):
        quality.load_cases(tmp_path / "lq")


def test_an_infinite_psnr_is_null_in_the_report(photos: Path) -> None:
    case = quality.load_cases(photos, 1)[0]
    perfect = quality.Case(case.name, "", case.hq, case.hq)
    engine = Sharpener(begun=-1)
    params = engine.params("fast", {"seed": 1})
    results = quality.evaluate(engine, [perfect], params)
    assert results[0].model_scores["psnr"] == math.inf
    report = quality.to_report(engine, params, results)
    assert report["mean"]["all"]["model"]["psnr"] is None
    assert json.loads(json.dumps(report, allow_nan=False))["params"]["preset"] == "fast"


def test_the_sheet_shows_input_result_and_original_side_by_side(photos: Path) -> None:
    results = outcomes(photos)
    sheet = quality.contact_sheet(results)
    cell, label = quality.SHEET_CELL_PX, quality.SHEET_LABEL_PX
    assert sheet.size == (6 * cell, 2 * (cell + label))
    third = (0, cell + 2 * label)  # the third case starts the second row
    for place, picture in enumerate((results[2].case.lq, results[2].restored, results[2].case.hq)):
        left, top = third[0] + place * cell, third[1]
        shown = sheet.crop((left, top, left + SIDE, top + SIDE))
        assert np.array_equal(np.asarray(shown), np.asarray(picture))


def test_the_command_writes_table_report_and_sheet(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: list[str] = []

    def load(model: str) -> Sharpener:
        loaded.append(model)
        return Sharpener()

    monkeypatch.setitem(sys.modules, "engines", SimpleNamespace(load=load))
    report, sheet = photos / "report.json", photos / "sheet.png"
    quality.main(
        ["--model", "nano", "--photos", str(photos), "--preset", "fast", "--limit", "2"]
        + ["--json", str(report), "--sheet", str(sheet)]
    )
    written = json.loads(report.read_text(encoding="utf-8"))
    assert loaded == ["nano"]
    assert written["params"] == {"preset": "fast", "seed": 0}
    assert [p["name"] for p in written["pictures"]] == ["0", "1"]
    assert "mean of all (2)" in capsys.readouterr().out
    with Image.open(sheet) as drawn:
        assert drawn.width == 6 * quality.SHEET_CELL_PX
