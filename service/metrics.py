"""Every Prometheus metric of the API: one table of names, and the registry of one app.

What happens in this process is counted as it happens; the state of the queue belongs to all
processes, so its gauges, the count of jobs that ended and their times are read from Redis at each
scrape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from service import keys

CONTENT_TYPE = CONTENT_TYPE_LATEST


@dataclass(frozen=True, slots=True)
class Metric:
    """Name, help text, labels and (for histograms) upper bounds in seconds."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


REQUESTS = Metric(
    "instantir_requests_total", "HTTP requests answered.", ("route", "method", "code")
)
JOBS_SUBMITTED = Metric("instantir_jobs_submitted_total", "Jobs admitted here.", ("priority",))
SUBMIT_SECONDS = Metric(
    "instantir_submit_seconds",
    "Seconds from the request to the admitted job, upload and image check included.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0),
)
STREAMS_OPEN = Metric("instantir_streams_open", "Clients following a job here.", ("kind",))
HOOKS = Metric(
    "instantir_webhook_deliveries_total",
    "Tries to deliver a webhook message: delivered, failed, gone or given_up.",
    ("outcome",),
)

REDIS_UP = Metric("instantir_redis_up", "1 when Redis answered this scrape, else 0.")
QUEUE_DEPTH = Metric("instantir_queue_depth", "Jobs waiting.", ("priority",))
JOBS_RUNNING = Metric("instantir_jobs_running", "Jobs held by workers.")
JOBS_ENDED = Metric("instantir_jobs_total", "Jobs that ended, on any worker.", ("status",))
JOBS_DEAD = Metric("instantir_jobs_dead", "Jobs failed because their workers kept dying.")
WORKERS_READY = Metric("instantir_workers_ready", "Workers with a loaded model.")
ETA_ERROR = Metric(
    "instantir_eta_error_ratio",
    "Median of how far the predictions for the last jobs were off, as a share of their time.",
)
ETA_JUDGED = Metric("instantir_eta_judged_jobs", "Jobs that the median is of, 1000 at most.")
WORKER_SLOTS = Metric("instantir_worker_slots", "Jobs that the ready workers can run at once.")
JOB_WAIT_SECONDS = Metric(
    "instantir_job_wait_seconds",
    "Seconds from a job's submission to its first start, on any worker.",
    buckets=keys.TIMES_S,
)
JOB_SECONDS = Metric(
    "instantir_job_seconds",
    "Seconds from a job's submission to its success, on any worker.",
    buckets=keys.TIMES_S,
)
QUEUE_LIMIT = Metric("instantir_queue_limit", "Waiting jobs before submissions are refused.")
STREAMS_LIMIT = Metric("instantir_streams_limit", "Clients that may follow jobs here at once.")


@dataclass(frozen=True, slots=True)
class QueueState:
    """What one scrape read from Redis, and the limits that it is judged by."""

    waiting: Mapping[str, int]
    running: int
    ended: Mapping[str, int]
    dead: int
    workers: Mapping[str, Mapping[str, Any]]
    eta_errors: Sequence[float]
    wait: tuple[Sequence[int], float]  # counts by bucket, and the sum in seconds
    whole: tuple[Sequence[int], float]
    queue_limit: int
    streams_limit: int


class Metrics:
    """The metrics of one app, in a registry of their own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(REQUESTS.name, REQUESTS.help, REQUESTS.labels, registry=registry)
        self.jobs_submitted = Counter(
            JOBS_SUBMITTED.name, JOBS_SUBMITTED.help, JOBS_SUBMITTED.labels, registry=registry
        )
        self.submit_seconds = Histogram(
            SUBMIT_SECONDS.name,
            SUBMIT_SECONDS.help,
            buckets=SUBMIT_SECONDS.buckets,
            registry=registry,
        )
        self.streams_open = Gauge(
            STREAMS_OPEN.name, STREAMS_OPEN.help, STREAMS_OPEN.labels, registry=registry
        )
        self.hooks = Counter(HOOKS.name, HOOKS.help, HOOKS.labels, registry=registry)
        self._registry = registry

    def render(self, queue: QueueState | None) -> bytes:
        """The text of one scrape; None says that Redis did not answer."""
        scrape = CollectorRegistry()
        scrape.register(_QueueCollector(queue))
        return generate_latest(self._registry) + generate_latest(scrape)


class _QueueCollector(Collector):
    def __init__(self, state: QueueState | None) -> None:
        self._state = state

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]:
        state = self._state
        yield _gauge(REDIS_UP, 0 if state is None else 1)
        if state is None:
            return  # absent is honest, zero would read as an empty queue
        depth = GaugeMetricFamily(QUEUE_DEPTH.name, QUEUE_DEPTH.help, labels=QUEUE_DEPTH.labels)
        for priority, count in state.waiting.items():
            depth.add_metric([priority], count)
        yield depth
        ended = CounterMetricFamily(JOBS_ENDED.name, JOBS_ENDED.help, labels=JOBS_ENDED.labels)
        for status, count in state.ended.items():
            ended.add_metric([status], count)
        yield ended
        ready = [info for info in state.workers.values() if info.get("ready")]
        yield _gauge(JOBS_RUNNING, state.running)
        yield _gauge(JOBS_DEAD, state.dead)
        yield _gauge(WORKERS_READY, len(ready))
        yield _gauge(ETA_JUDGED, len(state.eta_errors))
        if state.eta_errors:
            yield _gauge(ETA_ERROR, median(state.eta_errors))
        yield _gauge(WORKER_SLOTS, sum(int(info.get("slots", 0)) for info in ready))
        yield _histogram(JOB_WAIT_SECONDS, *state.wait)
        yield _histogram(JOB_SECONDS, *state.whole)
        yield _gauge(QUEUE_LIMIT, state.queue_limit)
        yield _gauge(STREAMS_LIMIT, state.streams_limit)


def _gauge(metric: Metric, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.help, value=value)


def _histogram(metric: Metric, counts: Sequence[int], total: float) -> HistogramMetricFamily:
    bounds = [*map(str, metric.buckets), "+Inf"]
    buckets = list(zip(bounds, accumulate(counts), strict=True))
    return HistogramMetricFamily(metric.name, metric.help, buckets=buckets, sum_value=total)
