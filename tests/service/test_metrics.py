"""The metrics by themselves: names, gauges of one scrape, and registries apart."""

import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from service import metrics
from service.metrics import Metric, Metrics, QueueState

STATE = QueueState(
    waiting={"high": 1, "normal": 0, "low": 7},
    running=3,
    ended={"succeeded": 5, "failed": 0},
    dead=2,
    workers={
        "a": {"ready": True, "slots": 4, "running": 3},
        "b": {"ready": False, "slots": 8, "running": 0},
    },
    eta_errors=[0.3, 0.05, 0.1],
    wait=([3, 2, *[0] * 9, 1], 4000.5),
    whole=([0] * 12, 0.0),
    queue_limit=200,
    streams_limit=10_000,
)
ALL = [value for value in vars(metrics).values() if isinstance(value, Metric)]


def scrape(text: bytes) -> dict[tuple, float]:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_gauges_come_from_the_state_of_the_queue() -> None:
    found = scrape(Metrics().render(STATE))

    assert found["instantir_redis_up",] == 1
    assert [found["instantir_queue_depth", p] for p in ("high", "normal", "low")] == [1, 0, 7]
    assert found["instantir_jobs_running",] == 3
    assert found["instantir_jobs_dead",] == 2
    assert found["instantir_workers_ready",] == 1
    assert found["instantir_worker_slots",] == 4
    assert found["instantir_eta_error_ratio",] == 0.1
    assert found["instantir_eta_judged_jobs",] == 3
    assert found["instantir_queue_limit",] == 200
    assert found["instantir_streams_limit",] == 10_000


def test_ends_of_jobs_are_a_counter_with_one_series_for_each_status() -> None:
    text = Metrics().render(STATE)

    assert b"# TYPE instantir_jobs_total counter\n" in text
    assert scrape(text)["instantir_jobs_total", "succeeded"] == 5
    assert scrape(text)["instantir_jobs_total", "failed"] == 0


def test_the_buckets_of_a_histogram_hold_all_that_took_no_longer() -> None:
    found = scrape(Metrics().render(STATE))

    counts = [found["instantir_job_wait_seconds_bucket", le] for le in ("0.5", "1.0", "3600.0")]
    assert counts == [3, 5, 5]
    assert found["instantir_job_wait_seconds_bucket", "+Inf"] == 6
    assert found["instantir_job_wait_seconds_count",] == 6
    assert found["instantir_job_wait_seconds_sum",] == 4000.5


def test_gauges_are_absent_and_not_zero_when_redis_is_away() -> None:
    found = scrape(Metrics().render(None))

    assert found["instantir_redis_up",] == 0
    assert not any(name.startswith("instantir_queue_depth") for name, *_ in found)


def test_a_scrape_leaves_nothing_behind() -> None:
    one = Metrics()
    one.render(STATE)

    assert scrape(one.render(None)).get(("instantir_jobs_running",)) is None


def test_every_metric_of_the_table_is_exposed_with_its_help() -> None:
    one = Metrics()
    one.requests.labels("/restore", "POST", "202").inc()
    one.jobs_submitted.labels("normal").inc()
    one.streams_open.labels("sse").inc()
    one.hooks.labels("delivered").inc()
    text = one.render(STATE).decode()

    assert len(ALL) == 18
    for metric in ALL:
        assert f"# HELP {metric.name} {metric.help}\n" in text
    assert "process_resident_memory_bytes" in text


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.name)
def test_names_follow_the_conventions(metric: Metric) -> None:
    assert metric.name.startswith("instantir_")
    assert metric.name.endswith("_seconds") == bool(metric.buckets)
    assert metric.help.endswith(".")


def test_nothing_enters_the_registry_of_the_process() -> None:
    Metrics()

    assert not [m for m in REGISTRY.collect() if m.name.startswith("instantir_")]
