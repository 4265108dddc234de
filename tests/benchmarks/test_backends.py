"""The arithmetic of comparisons; no speed is tested."""

from __future__ import annotations

import pytest

from benchmarks.backends import in_turn, ratios


def test_what_is_compared_runs_in_turn_and_the_first_round_does_not_count() -> None:
    said: list[str] = []
    what = {name: lambda name=name: said.append(name) for name in ("torch", "other")}
    taken = in_turn(what, 2)
    assert said == ["torch", "other"] * 3
    assert [len(seconds) for seconds in taken.values()] == [2, 2]


def test_ratios_are_medians_of_pairs() -> None:
    found = ratios({"torch": [2.0, 4.0, 3.0], "other": [1.0, 1.0, 2.0]})
    assert found["torch"]["faster"] == 1.0
    assert found["other"]["seconds"] == 1.0
    assert found["other"]["faster"] == 2.0
    assert found["other"]["from"] == pytest.approx(1.6)
    assert found["other"]["to"] == pytest.approx(3.6)
