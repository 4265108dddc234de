import json
import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from evals.compare import Case, Outcome, Result
from evals.table import (
    SHEET_CELL_PX,
    SHEET_LABEL_PX,
    Run,
    contact_sheet,
    to_json,
    to_markdown,
    worst,
)

SIDE = 48
COLORS = {"lq": "gray", "nano": "red", "peer": "green", "hq": "blue"}


def picture(name: str) -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), COLORS[name])


def outcome(index: int, severity: str) -> Outcome:
    results = {
        method: Result(picture(name), {"psnr": 20.0 + gain + index, "piqe": 50.0 - gain}, gain / 2)
        for method, name, gain in (("input", "lq", 0), ("nano", "nano", 1), ("peer", "peer", 3))
    }
    case = Case(f"{index:02d}", severity, picture("lq"), picture("hq"))
    return Outcome(case, results, {"piqe": 30.0 + index})


def run(severities: str = "ab a") -> Run:
    return Run(
        model="nano",
        fingerprint="0123",
        params={"preset": "fast", "seed": 1},
        how={"input": "as it came", "nano": "the model", "peer": "another"},
        missing=dict.fromkeys(("lpips", "dists"), "not installed: pip install it"),
        metrics=("psnr", "piqe"),
        outcomes=[outcome(i, severity.strip()) for i, severity in enumerate(severities)],
    )


def rows(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_has_a_row_for_each_method_of_each_group() -> None:
    head, _, *body = rows(to_markdown(run()))
    assert head == ["pictures", "method", "psnr ↑", "piqe ↓", "seconds"]
    assert [row[0] for row in body] == ["all (4)"] * 4 + ["a (2)"] * 4 + ["b (1)"] * 4
    assert body[1] == ["all (4)", "nano", "22.50", "49.0", "0.50"]
    assert body[6] == ["a (2)", "peer", "24.50", "47.0", "1.50"]


def test_the_original_is_measured_where_no_reference_is_needed() -> None:
    body = rows(to_markdown(run()))[2:]
    assert body[3] == ["all (4)", "original", "–", "31.5", ""]


def test_the_table_says_how_methods_ran_and_what_is_missing() -> None:
    text = to_markdown(run())
    assert "- `peer`: another\n" in text
    assert "- not present: `lpips`, `dists`: not installed: pip install it\n" in text


def test_the_report_has_means_by_method_and_every_picture() -> None:
    report = to_json(run())
    assert (report["model"], report["images"], report["seconds_per_image"]) == ("nano", 4, 0.5)
    assert report["methods"]["peer"] == {"psnr": 24.5, "piqe": 47.0}
    assert report["methods"]["original"] == {"piqe": 31.5}
    assert report["mean"]["b"]["nano"] == {"psnr": 22.0, "piqe": 49.0}
    assert report["seconds"] == {"input": 0.0, "nano": 0.5, "peer": 1.5}
    assert report["low_is_good"] == ["piqe"]
    assert set(report["not_present"]) == {"lpips", "dists"}
    assert [p["name"] for p in report["pictures"]] == ["00", "01", "02", "03"]
    assert report["pictures"][3]["methods"]["nano"] == {"psnr": 24.0, "piqe": 49.0}


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_values_that_json_has_no_word_for_are_null(value: float) -> None:
    first = outcome(0, "")
    result = replace(first.results["nano"], scores={"psnr": value, "piqe": 1.0})
    perfect = replace(first, results={**first.results, "nano": result})
    report = json.loads(json.dumps(to_json(replace(run(), outcomes=[perfect])), allow_nan=False))
    assert report["methods"]["nano"] == {"psnr": None, "piqe": 1.0}


def test_the_sheet_shows_methods_and_original_side_by_side() -> None:
    sheet = contact_sheet(run("aaa").outcomes, ["input", "nano", "peer"])
    height = SHEET_CELL_PX + SHEET_LABEL_PX
    assert sheet.size == (2 * 4 * SHEET_CELL_PX, 2 * height)
    for place, name in enumerate(("lq", "nano", "peer", "hq")):  # the third case: second row
        left, top = place * SHEET_CELL_PX, height + SHEET_LABEL_PX
        shown = sheet.crop((left, top, left + SIDE, top + SIDE))
        assert np.array_equal(np.asarray(shown), np.asarray(picture(name)))


def test_the_worst_are_those_with_the_least_gain_the_worst_first() -> None:
    outcomes = []
    for index, psnr in enumerate((22.0, 20.5, 23.0)):  # inputs have 20, 21 and 22 dB
        first = outcome(index, "")
        result = replace(first.results["nano"], scores={"psnr": psnr})
        outcomes.append(replace(first, results={**first.results, "nano": result}))
    assert worst(outcomes, "nano", "input", 2) == [outcomes[1], outcomes[2]]
