from __future__ import annotations

import pytest

from service.capacity.fleet import Kind, poisson, simulate
from service.capacity.plan import bisect, fewest, plan
from service.capacity.profiles import Profile

PROFILE = Profile(
    title="a second a picture",
    source="measured",
    kinds=(Kind(share=1.0, steps=4, step_s=0.25),),
    slots=2,
    together=0.0,
    crowding=0.0,
    start_s=30.0,
    price_per_h=3.6,
)


def test_one_worker_less_would_break_the_promise() -> None:
    arrivals = poisson(PROFILE.kinds, 4.0, 500)
    workers = fewest(PROFILE, arrivals, p95_s=2.0)
    assert simulate(PROFILE.pace, arrivals, workers).quantile(0.95) <= 2.0
    assert simulate(PROFILE.pace, arrivals, workers - 1).quantile(0.95) > 2.0


def test_a_plan_holds_what_it_says() -> None:
    made = plan(PROFILE, per_s=3.0, p95_s=2.0)
    assert made.p50_s <= made.p95_s <= made.wanted_p95_s
    assert made.p95_s <= made.p99_s
    assert made.use == pytest.approx(3.0 / made.workers, rel=0.1)
    # Workers of 3.6 an hour cost a thousandth each second, and three pictures come in it.
    assert made.cost_per_1000 == pytest.approx(made.workers / 3)
    assert made.burst.p95_s > made.p95_s
    assert made.burst.over_s > 0
    assert made.region_lost_p95_s is not None
    assert made.region_lost_p95_s > made.p95_s
    assert 31.0 <= made.first_after_idle_s <= 31.0 + 15.0


def test_more_pictures_need_more_workers() -> None:
    few, many = (plan(PROFILE, per_s, p95_s=3.0).workers for per_s in (1.0, 8.0))
    assert few < many


def test_with_a_single_worker_nobody_is_left_when_a_region_goes() -> None:
    assert plan(PROFILE, per_s=0.05, p95_s=5.0).region_lost_p95_s is None


@pytest.mark.parametrize(
    ("per_s", "p95_s", "said"),
    [
        (0.0, 8.0, "pictures a second is 0"),
        (1.0, float("nan"), "p95 is nan"),
        (1.0, 0.5, "a restoration alone takes 1 s: no fleet is fast enough"),
    ],
)
def test_what_cannot_be_promised_is_refused(per_s: float, p95_s: float, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(PROFILE, per_s, p95_s)


def test_workers_that_slow_one_another_down_too_much_are_no_fleet() -> None:
    crowded = PROFILE.model_copy(update={"crowding": 3.0})
    with pytest.raises(ValueError, match="workers slow one another down too much"):
        fewest(crowded, poisson(crowded.kinds, 4.0, 50), p95_s=1.5)


def test_bisection_finds_the_first_that_keeps() -> None:
    for first in (1, 17, 64):
        assert bisect(0, 64, lambda n, first=first: n >= first) == first
