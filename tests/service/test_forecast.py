"""Forecasts from costs and a simulated fleet."""

from dataclasses import replace

import pytest

from service.forecast import CostModel, Line, band, simulate
from service.work import Load, Loaded


def sums(*jobs: tuple[int, float, int]) -> list[float]:
    """What the queue keeps of finished jobs: (pixels, seconds, steps)."""
    rows = [(1.0, p, s, p * p, p * s, n) for p, s, n in jobs]
    return [float(sum(column)) for column in zip(*rows, strict=True)]


def job(name: str, pixels: int = 100, owner: str = "", done: float = 0.0) -> Loaded:
    return Loaded(name, "kind", pixels, owner, done)


# A job costs a second for every hundred pixels, in ten steps.
MODEL_SUMS = sums((100, 1.0, 10), (300, 3.0, 10))
MODEL = CostModel({"kind": MODEL_SUMS})


def test_a_line_goes_through_what_was_measured() -> None:
    line = Line.of(sums((100, 1.5, 4), (300, 2.5, 6)))
    assert line.seconds(200) == pytest.approx(2.0)
    assert line.seconds(500) == pytest.approx(3.5)
    assert line.steps == 5


def test_pictures_of_one_size_give_a_line_through_nothing() -> None:
    assert Line.of(sums((100, 2.0, 4), (100, 4.0, 4))).seconds(50) == pytest.approx(1.5)


def test_no_picture_costs_less_than_nothing() -> None:
    falling = Line.of(sums((100, 3.0, 4), (300, 1.0, 4)))
    steep = Line.of(sums((100, 0.1, 4), (300, 3.0, 4)))
    assert falling.seconds(10_000) > 0
    assert steep.seconds(1) > 0


def test_an_unknown_kind_costs_what_all_others_do() -> None:
    model = CostModel({"a": sums((100, 1.0, 10)), "b": sums((100, 3.0, 10))})
    line = model.line("c")
    assert line is not None
    assert line.seconds(100) == pytest.approx(2.0)
    assert CostModel({}).line("a") is None


def test_a_size_that_was_seen_costs_what_it_did_and_another_lies_on_the_line() -> None:
    padded = {"kind@27": [2.0, 2.2, 2.1], "kind": MODEL_SUMS}
    model = CostModel(padded)
    seen, between = model.line("kind@27"), model.line("kind@30")
    assert seen is not None
    assert between is not None
    assert (seen.seconds(100), seen.steps) == (2.1, 10)
    assert between.seconds(200) == pytest.approx(2.0)


def test_the_dear_first_job_of_a_size_is_no_measure_of_the_next() -> None:
    line = CostModel({"kind@27": [2.0, 5.0], "kind": MODEL_SUMS}).line("kind@27")
    assert line is not None
    assert line.seconds(100) == 2.0


def test_sizes_do_not_count_twice_for_an_unknown_kind() -> None:
    model = CostModel({"kind@27": [9.0], "kind": sums((100, 1.0, 10))})
    line = model.line("other@27")
    assert line is not None
    assert line.seconds(100) == pytest.approx(1.0)


def test_a_worker_steps_what_it_holds_together() -> None:
    load = Load([job("a", owner="w"), job("b", 200, owner="w")], [], 0)
    # Ten rounds of 0.1 s and 0.2 s: both end with the last one.
    assert simulate(load, MODEL, [2]) == pytest.approx({"a": 3.0, "b": 3.0})


def test_what_was_done_already_is_not_done_again() -> None:
    load = Load([job("a", owner="w", done=0.5), job("b", owner="w")], [], 0)
    # Five rounds of both, then five of b alone.
    assert simulate(load, MODEL, [2]) == pytest.approx({"a": 1.0, "b": 1.5})


def test_what_was_done_of_a_step_before_it_is_told_counts() -> None:
    load = Load([replace(job("a", owner="w"), since_s=0.05)], [], 0)
    assert simulate(load, MODEL, [1]) == pytest.approx({"a": 0.95})
    silent = Load([replace(job("a", owner="w"), since_s=60.0)], [], 0)
    assert simulate(silent, MODEL, [1]) == pytest.approx({"a": 0.91})


def test_who_holds_least_takes_the_next_job() -> None:
    load = Load([job("a", owner="w")], [job("b")], 1)
    assert simulate(load, MODEL, [2, 2]) == pytest.approx({"a": 1.0, "b": 1.0})


def test_waiting_jobs_take_the_slots_that_come_free_in_their_order() -> None:
    load = Load([job("a", owner="w")], [job("b"), job("c")], 2)
    assert simulate(load, MODEL, [1]) == pytest.approx({"a": 1.0, "b": 2.0, "c": 3.0})


def test_workers_share_what_waits() -> None:
    load = Load([], [job("a"), job("b"), job("c")], 3)
    ends = simulate(load, MODEL, [1, 1])
    assert ends == pytest.approx({"a": 1.0, "b": 1.0, "c": 2.0})


def test_workers_that_share_a_machine_slow_one_another_down_while_both_are_busy() -> None:
    load = Load([job("a", owner="v"), job("b", 200, owner="w")], [], 0, crowding=0.5)
    # 1.5 s until a has ended, and of b's 2.0 s one is left, alone.
    assert simulate(load, MODEL, [1, 1]) == pytest.approx({"a": 1.5, "b": 2.5})


def test_jobs_that_share_a_worker_are_no_crowd() -> None:
    load = Load([job("a", owner="w"), job("b", owner="w")], [], 0, crowding=0.5)
    assert simulate(load, MODEL, [2]) == pytest.approx({"a": 2.0, "b": 2.0})


def test_nothing_is_predicted_without_a_worker_or_before_anything_was_measured() -> None:
    load = Load([], [job("a")], 1)
    assert simulate(load, MODEL, []) == {}
    assert simulate(load, CostModel({}), [1]) == {}


def test_the_band_is_as_wide_as_the_errors_were() -> None:
    unproven = band(10.0, [])
    assert (unproven.low_s, unproven.likely_s, unproven.high_s) == (5.0, 10.0, 15.0)
    proven = band(10.0, [0.01] * 17 + [0.2, 0.2, 0.9])
    assert (proven.low_s, proven.high_s) == (8.0, 12.0)
    assert band(10.0, [0.0] * 20).high_s == 11.0
    assert band(10.0, [3.0] * 20).low_s == 0.0
