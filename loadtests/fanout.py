"""Many followers of one API process: delay of events and memory for each stream.

`make loadtest`, or `python -m loadtests.fanout --streams 1000 --jobs 1 --seconds 30`. A private
Redis and one API process are started; this process plays the worker (a step and a preview of every
job at a steady pace) and a third one the clients.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

from redis.asyncio import Redis

from loadtests.limits import verdict
from loadtests.listeners import KINDS, listening
from loadtests.processes import api
from service.connection import connect
from service.embedded import EmbeddedServer
from service.events import PreviewEvent, ProgressEvent
from service.jobs import RestoreOptions, SourceInfo
from service.queue import JobQueue
from service.settings import Settings
from service.work import Lease, Submission

LIMITS: Final = {
    "websocket_p99_ms": (0, 250),
    "sse_p99_ms": (0, 250),
    "kib_each": (0, 40),
}
_PREVIEW: Final = b"\xff\xd8" + bytes(8_000)
_SOURCE: Final = SourceInfo(width=256, height=256, content_type="image/png", bytes=1, sha256="0")
_LEASE_S: Final = 3600.0
_SETTLE_S: Final = 2.0
_WARM_UP_S: Final = 2.0  # the first sends of thousands of fresh streams are not counted


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked for."""

    streams: int  # of each kind
    jobs: int
    seconds: float
    steps_per_s: float  # of all jobs together


@dataclass(frozen=True, slots=True)
class Found:
    """What was measured. Delays in ms, memory in KiB for each open stream."""

    streams: int
    jobs: int
    events: int
    websocket_p50_ms: float
    websocket_p99_ms: float
    sse_p50_ms: float
    sse_p99_ms: float
    kib_each: float
    redis_connections: int
    api_cpu: float  # share of one core


def _rss_kib(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def clients(pipe: Connection, port: int, job_ids: list[str], count: int, after: int) -> None:
    """The process of the clients: opens the streams, says so, and reports when it is asked."""

    async def run() -> None:
        async with listening(port, job_ids, count, after) as delays:
            pipe.send("open")
            await asyncio.to_thread(pipe.recv)
            for kind in KINDS:
                delays[kind].clear()  # what was replayed at the opening
            pipe.send("counting")
            await asyncio.to_thread(pipe.recv)
            pipe.send(delays)

    asyncio.run(run())


@asynccontextmanager
async def _held(redis: Redis, settings: Settings, jobs: int) -> AsyncGenerator[tuple]:
    """Running jobs and their leases."""
    queue = JobQueue(redis, settings)
    for index in range(jobs):
        asked = Submission(RestoreOptions(), _SOURCE, b"x")
        await queue.submit(f"00000000-0000-4000-8000-{index:012}", asked)
    leases = await queue.claim("worker", jobs)
    for lease in leases:
        await queue.start(lease, {"steps": 1000}, "nano")
    yield queue, leases


async def _play(queue: JobQueue, leases: list[Lease], seconds: float, per_s: float) -> None:
    """Steps of all jobs in turn, each with a preview."""
    began, made = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        if made >= passed * per_s:
            await asyncio.sleep(0.005)
            continue
        lease, step = leases[made % len(leases)], 1 + made // len(leases)
        await queue.emit(lease, ProgressEvent(step, 1000, "restoring", 500, 0.1, 1.0))
        await queue.emit(lease, PreviewEvent(step, 1000, 64, 64, "image/jpeg"), _PREVIEW)
        made += 1


async def measure(plan: Plan, address: str, data_dir: Path) -> Found:
    """One run of a plan against a fresh API process."""
    settings = Settings(
        redis_url=address, data_dir=data_dir, lease_s=_LEASE_S, queue_limit=plan.jobs + 1
    )
    redis = connect(settings)
    await redis.flushall()
    with api(address, "--max-streams", str(2 * plan.streams + 10)) as service:
        async with _held(redis, settings, plan.jobs) as (queue, leases):
            await asyncio.sleep(_SETTLE_S)
            before = _rss_kib(service.pid)
            ours, theirs = multiprocessing.Pipe()
            ids = [lease.job_id for lease in leases]
            arguments = (theirs, service.port, ids, plan.streams, 0)
            process = multiprocessing.get_context("spawn").Process(target=clients, args=arguments)
            process.start()
            await asyncio.to_thread(ours.recv)
            await _play(queue, leases, _WARM_UP_S, plan.steps_per_s)
            await asyncio.sleep(_SETTLE_S)
            ours.send("count")
            await asyncio.to_thread(ours.recv)
            cpu, began = _cpu_s(service.pid), time.monotonic()
            await _play(queue, leases, plan.seconds, plan.steps_per_s)
            spent = (_cpu_s(service.pid) - cpu) / (time.monotonic() - began)
            await asyncio.sleep(_SETTLE_S)
            kib = (_rss_kib(service.pid) - before) / (2 * plan.streams)
            connections = len(await redis.client_list())
            ours.send("report")
            delays = await asyncio.to_thread(ours.recv)
            process.join()
    await redis.aclose()
    return _found(plan, delays, kib, connections, spent)


def _found(
    plan: Plan, delays: dict[str, list[float]], kib: float, connections: int, cpu: float
) -> Found:
    def at(kind: str, percent: int) -> float:
        return round(1000 * statistics.quantiles(delays[kind], n=100)[percent - 1], 1)

    return Found(
        streams=2 * plan.streams,
        jobs=plan.jobs,
        events=sum(map(len, delays.values())),
        websocket_p50_ms=at("websocket", 50),
        websocket_p99_ms=at("websocket", 99),
        sse_p50_ms=at("sse", 50),
        sse_p99_ms=at("sse", 99),
        kib_each=round(kib, 1),
        redis_connections=connections,
        api_cpu=round(cpu, 2),
    )


def main() -> int:
    """Measure and print one JSON object; 1 where a limit is broken."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.fanout", description=__doc__)
    parser.add_argument("--streams", type=int, default=1000, help="of each kind")
    parser.add_argument("--jobs", type=int, default=1, help="that are followed, in turn")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--steps-per-s", type=float, default=1.0, help="of all jobs together")
    options = parser.parse_args()
    plan = Plan(options.streams, options.jobs, options.seconds, options.steps_per_s)
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as address:
        found = asyncio.run(measure(plan, address, Path(folder)))
    sys.stdout.write(json.dumps(asdict(found)) + "\n")
    return verdict(asdict(found), LIMITS)


if __name__ == "__main__":
    sys.exit(main())
