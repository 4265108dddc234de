"""The plan of a mixed load, and how its figures are judged."""

from __future__ import annotations

import pytest

from loadtests.visits import MIX, Load, Outcome, arrivals, doubled, missed, p_ms


def test_the_same_load_brings_the_same_visits_and_another_seed_others() -> None:
    assert arrivals(Load()) == arrivals(Load())
    assert arrivals(Load(seed=1)) != arrivals(Load())


def test_visits_come_at_the_rates_that_are_asked_for() -> None:
    load = Load(seconds=1000.0, per_s=2.0, burst=10.0, burst_s=100.0)
    visits = arrivals(load)
    inside = sum(load.bursts(visit.at_s) for visit in visits)
    assert inside == pytest.approx(2000, rel=0.1)
    assert len(visits) - inside == pytest.approx(1800, rel=0.1)
    assert [visit.number for visit in visits] == [*range(len(visits))]
    moments = [visit.at_s for visit in visits]
    assert moments == sorted(moments)


def test_the_default_load_has_every_kind_of_visitor() -> None:
    assert {visit.kind for visit in arrivals(Load())} == set(MIX)
    assert sum(MIX.values()) == pytest.approx(1)


def test_a_gap_is_an_event_of_the_log_that_was_not_seen_unless_it_is_a_preview() -> None:
    log = [(1, "status"), (2, "progress"), (3, "preview"), (4, "progress"), (5, "status")]
    assert missed(log, log) == 0
    assert missed(log, [(1, "status"), (2, "progress"), (4, "progress"), (5, "status")]) == 0
    assert missed(log, [(1, "status"), (3, "preview"), (5, "status")]) == 2


def test_an_event_is_doubled_when_it_comes_again_or_too_late() -> None:
    assert doubled([(1, "status"), (2, "progress"), (4, "progress")]) == 0
    assert doubled([(1, "status"), (2, "progress"), (2, "progress")]) == 1
    assert doubled([(1, "status"), (4, "progress"), (2, "progress")]) == 1


def test_a_percentile_counts_the_visits_that_came_to_the_phase() -> None:
    outcomes = [Outcome(n, "follow", 0.0, took_s={"answer": n / 1000}) for n in range(1, 101)]
    outcomes.append(Outcome(101, "follow", 0.0, took_s={"refusal": 9.0}))
    assert [p_ms(outcomes, "answer", share) for share in (0.5, 0.99, 1.0)] == [50, 99, 100]
    assert p_ms(outcomes, "whole", 0.5) == 0
