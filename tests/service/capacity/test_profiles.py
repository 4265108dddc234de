from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.capacity.profiles import profile, shipped

MINE = {
    "title": "mine",
    "source": "measured",
    "kinds": [{"share": 1, "steps": 2, "step_s": 0.5}],
    "slots": 2,
    "together": 0,
    "crowding": 0.3,
    "start_s": 5,
    "price_per_h": 1,
}


@pytest.mark.parametrize("name", shipped())
def test_a_shipped_profile_says_that_it_was_not_measured(name: str) -> None:
    found = profile(name)
    assert found.source.startswith("estimated: ")
    assert found.source.endswith("; not measured")
    assert sum(kind.share for kind in found.kinds) == pytest.approx(1.0)


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(MINE))
    found = profile(str(path))
    assert (found.pace.slots, found.pace.crowding) == (2, 0.3)
    assert found.kinds[0].seconds == 1.0


def test_a_name_that_is_neither_is_refused_with_those_that_are() -> None:
    with pytest.raises(ValueError, match="gpu is 'h900', neither a file nor one of: h100, a100"):
        profile("h900")


def test_a_file_with_a_fault_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({**MINE, "slots": 0}))
    with pytest.raises(ValueError, match="slots: Input should be greater than or equal to 1"):
        profile(str(path))
