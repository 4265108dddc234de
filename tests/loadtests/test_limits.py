"""How figures are judged."""

from __future__ import annotations

from math import inf

import pytest

from loadtests.limits import broken, verdict


def test_a_figure_beyond_its_limit_is_named_with_its_limit() -> None:
    limits = {"errors": (0, 0), "refused": (1, inf), "answer_p99_ms": (0, 100)}
    assert broken({"errors": 0, "refused": 9, "answer_p99_ms": 100.0}, limits) == []
    assert broken({"errors": 2, "refused": 0, "answer_p99_ms": 101.5}, limits) == [
        "errors is 2, it must be 0 or less",
        "refused is 0, it must be 1 or more",
        "answer_p99_ms is 101.5, it must be 100 or less",
    ]


@pytest.mark.parametrize(("most", "status"), [(2.0, 0), (1.0, 1)])
def test_the_exit_status_says_whether_all_limits_hold(most: float, status: int) -> None:
    assert verdict({"delay_ms": 1.5}, {"delay_ms": (0, most)}) == status
