from __future__ import annotations

import argparse
import json

import pytest

from service import cli
from service.capacity.command import duration

ASKED = ["capacity", "--rps", "0.5", "--p95", "10s", "--gpu", "h100"]


def test_the_plan_says_workers_times_cost_and_what_was_assumed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main([*ASKED, "--price", "7.5"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("0.5 pictures a second, 95 % of them within 10 s\n")
    for part in (
        "; not measured",
        "workers  ",
        "p95 ",
        "for 1,000 pictures, at 7.5 an hour",
        "lost",
    ):
        assert part in told


def test_the_plan_as_json_has_the_profile_it_was_made_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main([*ASKED, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["workers"] >= 3
    assert made["profile"]["slots"] == 4


def test_what_cannot_be_planned_is_one_line_and_a_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main([*ASKED[:-1], "abacus"]) == 2
    assert capsys.readouterr().err.startswith("instantir: error: gpu is 'abacus', neither")


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("8s", 8.0), ("500ms", 0.5), ("2min", 120.0), ("1.5", 1.5), ("3 m", 180)],
)
def test_durations_are_written_as_people_do(written: str, seconds: float) -> None:
    assert duration(written) == pytest.approx(seconds)


def test_another_duration_is_refused_with_an_example() -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="it is 'soon', write it as 8s"):
        duration("soon")
