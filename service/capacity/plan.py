"""From a load and a promise to a number of workers, and what happens when things go wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from service.capacity.fleet import (
    Arrival,
    Loss,
    Outcome,
    Scaling,
    mean_seconds,
    poisson,
    quantile,
    simulate,
)
from service.capacity.profiles import Profile

JOBS: Final = 2000  # simulated at least for each number of workers that is tried
_TURNS: Final = 25  # as many times the jobs that are at work at a time, at least
BURST: Final = 10  # times the load
BURST_S: Final = 20.0
QUIET_S: Final = 3600.0  # without a job, before the one that finds no worker
_HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Burst:
    """Ten times the load for a while, with the planned workers."""

    p95_s: float  # of the jobs that came in it
    over_s: float  # after its end, until the queue is empty


@dataclass(frozen=True, slots=True)
class Plan:
    """What a load takes; times in seconds, costs in the profile's currency."""

    per_s: float
    wanted_p95_s: float
    jobs: int  # simulated
    workers: int
    use: float
    p50_s: float
    p95_s: float
    p99_s: float
    waited_p95_s: float
    cost_per_1000: float
    burst: Burst
    region_lost_p95_s: float | None  # half of the workers gone in the middle; None: all
    region_lost_workers: int  # that would keep the promise with one of two regions lost
    first_after_idle_s: float  # from zero workers
    hour_kept_ready: float  # cost of one worker that waits


def plan(profile: Profile, per_s: float, p95_s: float) -> Plan:
    """The fewest workers that keep the promise, and how they fare.

    Raises ValueError where a number is not positive or no number of workers keeps it.
    """
    for name, value in (("pictures a second", per_s), ("p95", p95_s)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} is {value:g}, it must be more than 0")
    jobs = max(JOBS, round(_TURNS * per_s * mean_seconds(profile.kinds)))
    arrivals = poisson(profile.kinds, per_s, jobs)
    alone = quantile([one.kind.seconds for one in arrivals], 0.95)
    if alone > p95_s:
        raise ValueError(
            f"p95 is {p95_s:g} s, a restoration alone takes {alone:.3g} s: no fleet is fast enough"
        )
    workers = fewest(profile, arrivals, p95_s)
    normal = simulate(profile.pace, arrivals, workers)
    paid_s = workers / per_s  # for each picture
    half = Loss(arrivals[len(arrivals) // 2].at_s, workers // 2)
    survivors = simulate(profile.pace, arrivals, workers, loss=half) if workers > 1 else None
    cold = Scaling(least=0, most=1, start_s=profile.start_s)
    first = simulate(profile.pace, [Arrival(QUIET_S, profile.kinds[0])], 0, scaling=cold)
    return Plan(
        per_s=per_s,
        wanted_p95_s=p95_s,
        jobs=jobs,
        workers=workers,
        use=normal.use,
        p50_s=normal.quantile(0.5),
        p95_s=normal.quantile(0.95),
        p99_s=normal.quantile(0.99),
        waited_p95_s=quantile(normal.waited, 0.95),
        cost_per_1000=1000 * paid_s / _HOUR_S * profile.price_per_h,
        burst=_burst(profile, per_s, workers),
        region_lost_p95_s=survivors.quantile(0.95) if survivors else None,
        region_lost_workers=2 * workers,
        first_after_idle_s=first.took[0],
        hour_kept_ready=profile.price_per_h,
    )


def fewest(profile: Profile, arrivals: list[Arrival], p95_s: float) -> int:
    """The least number of workers with which 95 % of the jobs come back in time.

    Raises ValueError where twice as many workers are no faster and still too slow.
    """

    def keeps(workers: int) -> bool:
        return simulate(profile.pace, arrivals, workers).quantile(0.95) <= p95_s

    load = len(arrivals) / arrivals[-1].at_s * mean_seconds(profile.kinds)
    low, high = 0, max(1, math.ceil(load / 2))
    while not keeps(high):
        low, high = high, 2 * high
        if high > 2 * len(arrivals):
            raise ValueError(f"p95 is {p95_s:g} s: workers slow one another down too much for it")
    return bisect(low, high, keeps)


def bisect(low: int, high: int, keeps: Callable[[int], bool]) -> int:
    """The least number above `low` that keeps; `high` does."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if keeps(middle) else (middle, high)
    return high


def _burst(profile: Profile, per_s: float, workers: int) -> Burst:
    before = poisson(profile.kinds, per_s, max(1, round(per_s * BURST_S)), seed=1)
    start = before[-1].at_s
    jobs = max(1, round(BURST * per_s * BURST_S))
    during = poisson(profile.kinds, BURST * per_s, jobs, seed=2)
    end = start + during[-1].at_s
    arrivals = [*before, *(Arrival(start + one.at_s, one.kind) for one in during)]
    outcome = simulate(profile.pace, arrivals, workers)
    return Burst(_late(outcome, len(during)), max(outcome.ended) - end)


def _late(outcome: Outcome, jobs: int) -> float:
    """The 95th percentile of the last jobs that ended."""
    return quantile(outcome.took[-jobs:], 0.95)
