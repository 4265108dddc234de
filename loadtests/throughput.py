"""What one Redis carries: submissions and events a second, and what a long queue costs.

`python -m loadtests.throughput`: a private server. Submissions, claims and forecasts go through
`service.queue`, at queues from empty to 100,000 jobs, and their cost is the time of a call alone.
Events of as many running jobs as a fleet has are sent by the queue's own script through pipelines,
as one client process costs more than the server. What a submission costs the server's and an API
process' own core is measured as their time on the processor, whatever else runs. Writes a report
and a chart; exit status 1 where a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from pathlib import Path
from typing import Any, Final

import httpx
import matplotlib as mpl
import psutil
from redis.asyncio import Redis

from loadtests.eta import picture
from loadtests.limits import verdict
from loadtests.processes import api
from service import keys
from service.connection import connect
from service.embedded import EmbeddedServer
from service.events import ProgressEvent, payload
from service.forecast import MOST_WAITING
from service.jobs import RestoreOptions, SourceInfo
from service.queue import JobQueue
from service.results import blob_store
from service.scripts import source
from service.settings import Settings
from service.work import Submission

mpl.use("Agg")
from matplotlib import pyplot

DEPTHS: Final = (0, 1_000, 10_000, 100_000)
_TOGETHER: Final = 24  # submissions at a time; a client has 32 connections
_RUNNING: Final = 100  # jobs whose events are sent
_BATCH: Final = 100  # events in a pipeline
_CALLS: Final = 200  # of each kind at each depth
LIMITS: Final = {
    "submits_per_s": (1_000, inf),  # at the slowest depth
    "events_per_s": (20_000, inf),
    "cost_at_100000": (0, 2),  # times that of the shortest queue
}
_IMAGE: Final = b"x" * 1024


def _asked(number: int) -> Submission:
    picture = SourceInfo(width=64, height=64, content_type="image/png", bytes=1024, sha256="0" * 64)
    return Submission(RestoreOptions(seed=number), picture, _IMAGE, caller=f"caller-{number % 50}")


async def submit(queue: JobQueue, first: int, jobs: int) -> float:
    """So many submissions, some at a time; returns how many a second."""
    numbers = iter(range(first, first + jobs))

    async def some() -> None:
        for number in numbers:
            await queue.submit(f"job-{number}", _asked(number))

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(_TOGETHER):
            group.create_task(some())
    return jobs / (time.perf_counter() - began)


async def emit(redis: Redis, queue: JobQueue, settings: Settings, events: int) -> float:
    """So many progress events of running jobs, by the queue's script; how many a second."""
    leases = await queue.claim("worker", _RUNNING)
    script = source("emit", settings)
    sha = await redis.script_load(script)
    began, sent = time.perf_counter(), 0
    while sent < events:
        pipeline = redis.pipeline(transaction=False)
        step = 1 + sent // _BATCH  # each job hears of it once
        event = json.dumps(payload(ProgressEvent(step, 30, "restoring", 749, 0.25, 0.5)))
        for index in range(_BATCH):
            lease = leases[(sent + index) % len(leases)]
            where = keys.of_job(lease.job_id)
            fence = (lease.job_id, lease.worker_id, lease.attempt)
            pipeline.evalsha(sha, len(where), *where, *fence, "progress", event, b"")
        told = await pipeline.execute()
        if told != [1] * _BATCH:
            raise RuntimeError("an event was refused: the lease of its job is lost")
        sent += _BATCH
    return sent / (time.perf_counter() - began)


async def cost_s(call: Callable[[int], Awaitable[object]], calls: int = _CALLS) -> float:
    """Median seconds of a call."""
    taken: list[float] = []
    for number in range(calls):
        began = time.perf_counter()
        await call(number)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


async def at_depth(queue: JobQueue, depth: int) -> dict[str, float]:
    """Milliseconds of each kind of call while so many jobs wait."""

    async def claimed(_: int) -> None:
        for lease in await queue.claim("other", 1):
            await queue.release(lease, count_attempt=False)

    calls: dict[str, Callable[[int], Awaitable[object]]] = {
        "submit": lambda number: queue.submit(f"at-{depth}-{number}", _asked(number)),
        "claim and release": claimed,
        "forecast": lambda _: queue.load(MOST_WAITING),
        "depth": lambda _: queue.depth(),
    }
    return {name: 1000 * await cost_s(call) for name, call in calls.items()}


async def server_cpu_s(redis: Redis) -> float:
    """Seconds that the server has had of its core."""
    said: dict[str, float] = await redis.info("cpu")
    return said["used_cpu_user"] + said["used_cpu_sys"]


async def api_cpu_s(address: str, requests: int = 1000) -> float:
    """Seconds of its core that an API process needs for one `POST /restore` of a small picture."""
    with api(address, "--queue-limit", "1000000") as service:
        process = psutil.Process(service.pid)
        image = picture(64, 0)
        async with httpx.AsyncClient(base_url=service.url) as client:

            async def post(number: int) -> None:
                form = {"seed": str(number), "cache": "false"}
                answer = await client.post("/restore", files={"image": image}, data=form)
                answer.raise_for_status()

            await post(0)
            before = process.cpu_times()
            for first in range(0, requests, _TOGETHER):
                last = min(first + _TOGETHER, requests)
                await asyncio.gather(*(post(number) for number in range(first, last)))
            after = process.cpu_times()
    spent = after.user + after.system - before.user - before.system
    return spent / requests


async def measure(address: str, events: int, depths: Sequence[int]) -> dict[str, Any]:
    """All figures; the queue grows from depth to depth."""
    settings = Settings(redis_url=address, queue_limit=10**6, lease_s=600.0)
    redis = connect(settings)
    queue = JobQueue(redis, settings, blob_store(redis, settings))
    found: dict[str, Any] = {"calls_ms": {}, "submits_per_s": {}, "cpu_us": {}}
    waiting = 0
    for depth in depths:
        if depth > waiting:
            before = await server_cpu_s(redis)
            found["submits_per_s"][depth] = await submit(queue, waiting, depth - waiting)
            spent = await server_cpu_s(redis) - before
            found["cpu_us"]["redis, a submission"] = 1e6 * spent / (depth - waiting)
            waiting = depth
        found["calls_ms"][depth] = await at_depth(queue, depth)
    before = await server_cpu_s(redis)
    found["events_per_s"] = await emit(redis, queue, settings, events)
    found["cpu_us"]["redis, an event"] = 1e6 * (await server_cpu_s(redis) - before) / events
    found["cpu_us"]["API, a submission"] = 1e6 * await api_cpu_s(address)
    found["bytes_per_job"] = (await redis.info("memory"))["used_memory"] / max(1, waiting)
    await redis.aclose()
    return found


def figures_of(found: dict[str, Any]) -> dict[str, float]:
    """What is held against the limits."""
    depths = sorted(found["calls_ms"])
    first, last = (found["calls_ms"][depth] for depth in (depths[1], depths[-1]))
    return {
        "submits_per_s": min(found["submits_per_s"].values()),
        "events_per_s": found["events_per_s"],
        "cost_at_100000": max(last[name] / first[name] for name in first),
    }


def chart(found: dict[str, Any], path: Path) -> None:
    """What a call costs against the length of the queue."""
    depths = sorted(found["calls_ms"])
    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    for name in found["calls_ms"][depths[0]]:
        axes.plot([found["calls_ms"][depth][name] for depth in depths], marker="o", label=name)
    axes.set(xlabel="jobs that wait", ylabel="ms a call (median)", ylim=(0, None))
    axes.set_xticks(range(len(depths)), [f"{depth:,}" for depth in depths])
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> int:
    """Measure, print one JSON object, write it and the chart; 1 where a limit is broken."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.throughput", description=__doc__)
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--report", type=Path, default=Path("reports/throughput.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as address:
        found = asyncio.run(measure(address, options.events, options.depths))
    text = json.dumps(found, indent=1)
    sys.stdout.write(text + "\n")
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(text + "\n", encoding="utf-8")
    chart(found, options.report.with_suffix(".png"))
    return verdict(figures_of(found), LIMITS)


if __name__ == "__main__":
    sys.exit(main())
