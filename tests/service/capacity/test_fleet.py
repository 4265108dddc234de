"""A simulated fleet against what can be reckoned by hand, and against queueing theory."""

from __future__ import annotations

import pytest

from service.capacity.fleet import (
    Arrival,
    Kind,
    Loss,
    Pace,
    Scaling,
    mean_seconds,
    poisson,
    quantile,
    simulate,
)

JOB = Kind(share=1.0, steps=10, step_s=0.1)  # a second
ONE = Pace(slots=1)
ROUND_S = 0.1  # what comes at the same moment as another may be a round behind it


def at(*moments: float, kind: Kind = JOB) -> list[Arrival]:
    return [Arrival(moment, kind) for moment in moments]


def test_a_job_alone_takes_what_it_costs() -> None:
    outcome = simulate(Pace(), at(5.0), workers=1)
    assert outcome.took == pytest.approx([1.0])
    assert outcome.waited == [0.0]
    assert outcome.ended == pytest.approx([6.0])


def test_jobs_wait_their_turn_where_there_is_one_slot() -> None:
    outcome = simulate(ONE, at(0.0, 0.0, 0.5), workers=1)
    assert outcome.took == pytest.approx([1.0, 2.0, 2.5])
    assert outcome.waited == pytest.approx([0.0, 1.0, 1.5])


def test_jobs_of_one_worker_are_stepped_in_turns() -> None:
    took = simulate(Pace(slots=2), at(0.0, 0.0), workers=1).took
    assert took == pytest.approx([2.0, 2.0], abs=ROUND_S + 1e-9)


def test_a_job_joins_between_two_rounds() -> None:
    outcome = simulate(Pace(slots=2), at(0.0, 0.45), workers=1)
    # Five rounds alone, then five together.
    assert outcome.took[0] == pytest.approx(0.5 + 5 * 0.2)
    assert outcome.took[1] == pytest.approx(0.05 + 5 * 0.2 + 5 * 0.1)


def test_jobs_are_begun_and_finished_one_after_the_other_between_rounds() -> None:
    job = Kind(share=1.0, steps=2, step_s=1.0, begin_s=0.5, finish_s=0.25)
    assert job.seconds == 2.75
    outcome = simulate(Pace(slots=2), at(0.0, 1.0, kind=job), workers=1)
    # 0.5 begin, 1.5 first step; the other begins until 2.0, both step until 4.0.
    assert outcome.ended == pytest.approx([4.25, 5.5])


def test_what_a_batch_does_at_once_is_taken_once() -> None:
    pace = Pace(slots=4, together=0.5)
    assert pace.round_s([0.1, 0.1, 0.1, 0.1]) == pytest.approx(0.05 + 0.2)
    took = simulate(pace, at(0.0, 0.0), workers=1).took
    assert took == pytest.approx([1.5, 1.5], abs=ROUND_S)


def test_busy_workers_of_one_machine_slow_one_another_down() -> None:
    pace = Pace(slots=1, crowding=0.5)
    took = simulate(pace, at(0.0, 0.0), workers=2).took
    assert took == pytest.approx([1.5, 1.5], abs=ROUND_S)
    assert simulate(pace, at(0.0), workers=2).took == pytest.approx([1.0])


def test_the_worker_that_holds_least_takes_the_next_job() -> None:
    assert simulate(Pace(slots=2), at(0.0, 0.0), workers=2).took == pytest.approx([1.0, 1.0])


def test_one_server_with_random_arrivals_waits_as_theory_says() -> None:
    per_s = 0.7
    outcome = simulate(ONE, poisson([JOB], per_s, 20_000), workers=1)
    # Pollaczek-Khinchine for equal services: rho * service / (2 * (1 - rho)).
    expected = per_s / (2 * (1 - per_s))
    assert sum(outcome.waited) / len(outcome.waited) == pytest.approx(expected, rel=0.1)
    assert outcome.use == pytest.approx(per_s, rel=0.05)


def test_jobs_of_lost_workers_begin_anew_and_none_is_lost() -> None:
    outcome = simulate(ONE, at(0.0, 0.0), workers=2, loss=Loss(at_s=0.55, workers=1))
    assert sorted(outcome.took) == pytest.approx([1.0, 2.0])
    assert len(outcome.waited) == 2


def test_a_fleet_at_zero_starts_when_a_job_comes_and_goes_when_it_is_idle() -> None:
    scaling = Scaling(least=0, most=3, start_s=60.0, idle_s=100.0)
    first, last = 1000.0, 3000.0
    outcome = simulate(ONE, at(first, last), workers=0, scaling=scaling)
    # A look every 15 s, a minute to start, a second of work.
    assert all(61.0 <= took + 1e-6 <= 76.0 + 1e-3 for took in outcome.took)
    assert outcome.worker_s < 2 * (60.0 + 1.0 + 100.0 + 15.0)


def test_scaling_stays_between_its_bounds() -> None:
    busy = at(*(0.0 for _ in range(50)))
    few = simulate(ONE, busy, workers=0, scaling=Scaling(least=0, most=2, start_s=0.0))
    many = simulate(ONE, busy, workers=0, scaling=Scaling(least=0, most=50, start_s=0.0))
    # A look finds the jobs within 15 s; then two workers need 25 s, and fifty one.
    assert 25.0 <= max(few.ended) <= 25.0 + 15.0 + 1e-6
    assert max(many.ended) <= 1.0 + 15.0 + 1e-6


@pytest.mark.parametrize(
    ("arrivals", "workers", "scaling", "said"),
    [
        ([], 1, None, "no job arrives"),
        (at(0.0), 0, None, "workers are 0"),
        (at(0.0), 0, Scaling(0, 0, 1.0), "most workers are 0, at least 1"),
    ],
)
def test_what_would_never_end_is_refused(
    arrivals: list[Arrival], workers: int, scaling: Scaling | None, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        simulate(ONE, arrivals, workers, scaling)


def test_arrivals_come_at_the_rate_and_in_the_shares_asked_for() -> None:
    rare, often = Kind(0.2, 1, 1.0), Kind(0.8, 1, 2.0)
    made = poisson([rare, often], per_s=4.0, jobs=4000)
    assert len(made) / made[-1].at_s == pytest.approx(4.0, rel=0.05)
    assert sum(one.kind is rare for one in made) / len(made) == pytest.approx(0.2, abs=0.02)
    assert made == poisson([rare, often], per_s=4.0, jobs=4000)
    assert mean_seconds([rare, often]) == pytest.approx(1.8)


def test_a_quantile_is_a_value_that_was_seen() -> None:
    values = [3.0, 1.0, 2.0, 4.0]
    assert [quantile(values, share) for share in (0.0, 0.5, 0.75, 1.0)] == [1, 2, 3, 4]
