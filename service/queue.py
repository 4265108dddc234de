"""The job queue: leases over Redis Streams, every change of state one atomic Lua script.

A claim is a lease. Heartbeats (`renew`) extend it; a silent worker's jobs go to the next claim
with their attempt counted. Delivery is at least once; a result is accepted once, because every
write of a worker is fenced by owner, attempt and status.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from service import keys
from service.connection import MAX_BLOCK_S, unavailable_when_away
from service.errors import NotFound, QueueFull
from service.events import Event, payload, type_of
from service.jobs import (
    TERMINAL,
    ErrorInfo,
    Job,
    JobStatus,
    OutputInfo,
    RestoreOptions,
    SourceInfo,
)
from service.scripts import Argument, Reply, Scripts
from service.settings import Settings

_JSON_FIELDS: Final = ("options", "source", "resolved", "progress", "output", "error")
_RETRY_AFTER_S: Final = 5  # while nothing has been measured
_MAX_RETRY_AFTER_S: Final = 60


class LeaseState(StrEnum):
    """What a heartbeat learns of one lease."""

    HELD = "held"
    LOST = "lost"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to work on a job; worth something only while the server agrees."""

    job_id: str
    entry_id: str
    stream: str
    worker_id: str
    attempt: int
    options: RestoreOptions


class JobQueue:
    """The queue as the API (submit, get, cancel) and the workers (the rest) see it.

    The API's calls raise ServerUnavailable when Redis is away; a worker's calls let Redis errors
    through, for a worker to wait and try again.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._scripts = Scripts(redis, settings)
        self._heard = b"0-0"  # last ring of the bell

    async def setup(self) -> None:
        """Creates what must exist before the first job. Idempotent; repeated after data loss."""
        await self._scripts.run("setup", keys.queues())

    async def submit(
        self, job_id: str, options: RestoreOptions, source: SourceInfo, image: bytes
    ) -> Job:
        """Admits a job and returns it; the same id again returns the job that exists.

        Raises QueueFull at `queue_limit` waiting jobs, ServerUnavailable when Redis is away.
        """
        with unavailable_when_away():
            reply = await self._run(
                "submit",
                [keys.BELL, keys.PACE, *keys.queues(), *keys.of_job(job_id)],
                [
                    job_id,
                    options.priority,
                    self._settings.queue_limit,
                    self._settings.max_attempts,
                    options.model_dump_json(exclude_none=True),
                    source.model_dump_json(),
                    image,
                ],
            )
        verdict, *figures = cast("list[bytes | int]", reply)
        if verdict == b"full":
            self._refuse(figures)
        return await self.get(job_id)

    async def get(self, job_id: str) -> Job:
        """The job's record. Raises NotFound, or ServerUnavailable when Redis is away."""
        with unavailable_when_away():
            record = cast("dict[bytes, bytes]", await self._redis.hgetall(keys.job(job_id)))
        if not record:
            raise NotFound(f"no job {job_id!r}")
        return _job_of(job_id, record)

    async def cancel(self, job_id: str) -> Job:
        """Cancels and returns the job: queued ends at once, running turns canceling. Idempotent.

        Raises NotFound, or ServerUnavailable when Redis is away.
        """
        with unavailable_when_away():
            where = [*keys.queues(), keys.ENDED, *keys.of_job(job_id)]
            await self._run("cancel", where, [job_id])
        return await self.get(job_id)

    async def claim(self, worker_id: str, n: int) -> list[Lease]:
        """Leases at most `n` jobs: by priority what was given back, lost leases, new jobs."""
        if n <= 0:
            return []
        reply = await self._run("claim", [*keys.queues(), keys.DEAD, keys.ENDED], [worker_id, n])
        return [
            Lease(
                job_id=job_id.decode(),
                entry_id=entry.decode(),
                stream=stream.decode(),
                worker_id=worker_id,
                attempt=attempt,
                options=RestoreOptions.model_validate_json(options),
            )
            for job_id, entry, stream, attempt, options in cast(
                "list[tuple[bytes, bytes, bytes, int, bytes]]", reply
            )
        ]

    async def renew(self, worker_id: str, leases: Sequence[Lease]) -> dict[str, LeaseState]:
        """One heartbeat for all leases; says by job id which are held, lost or to be canceled."""
        if not leases:
            return {}
        reply = await self._run(
            "renew",
            [key for lease in leases for key in (lease.stream, *keys.of_job(lease.job_id))],
            [
                worker_id,
                *(
                    argument
                    for lease in leases
                    for argument in (lease.job_id, lease.stream, lease.entry_id, lease.attempt)
                ),
            ],
        )
        states = cast("list[bytes]", reply)
        return {
            lease.job_id: LeaseState(state.decode())
            for lease, state in zip(leases, states, strict=True)
        }

    async def start(self, lease: Lease, resolved: dict[str, Any], model: str) -> bool:
        """Records the resolved parameters and the model; False when the lease is lost."""
        return await self._fenced("start", lease, [], [json.dumps(resolved), model])

    async def emit(self, lease: Lease, event: Event, frame: bytes | None = None) -> bool:
        """Appends an event, with a preview's bytes; False when the lease is lost."""
        data = json.dumps(payload(event))
        return await self._fenced("emit", lease, [], [type_of(event), data, frame or b""])

    async def succeed(self, lease: Lease, output: OutputInfo, result: bytes) -> bool:
        """Stores the result and ends the job; False when lost, or when a cancel came first."""
        return await self._finish(lease, JobStatus.SUCCEEDED, output.model_dump_json(), result)

    async def fail(self, lease: Lease, error: ErrorInfo) -> bool:
        """Ends the job as failed; False when lost, or when a cancel came first."""
        return await self._finish(lease, JobStatus.FAILED, error.model_dump_json())

    async def canceled(self, lease: Lease) -> bool:
        """Ends a canceling job; False when the lease is lost or nobody asked to cancel."""
        return await self._finish(lease, JobStatus.CANCELED)

    async def release(self, lease: Lease, *, count_attempt: bool) -> bool:
        """Gives the job back, claimable at once; False when the lease is lost."""
        args = [lease.stream, lease.entry_id, int(count_attempt)]
        where = [lease.stream, keys.BELL, keys.ENDED]
        return await self._fenced("release", lease, where, args)

    async def wait_for_work(self, timeout_s: float) -> None:
        """Returns when work may have arrived, or after `timeout_s`. Reserves nothing.

        Leases that expire ring no bell: claim again at least every lease.
        """
        block_ms = max(1, round(min(timeout_s, MAX_BLOCK_S) * 1000))
        rings: Any = await self._redis.xread({keys.BELL: self._heard}, block=block_ms)
        for _, entries in rings:
            self._heard = entries[-1][0]

    async def depth(self) -> dict[str, int]:
        """Waiting jobs by priority, and `running`."""
        with unavailable_when_away():
            reply = await self._run("depth", keys.queues())
        names = (*keys.PRIORITIES, "running")
        return dict(zip(names, cast("list[int]", reply), strict=True))

    async def ended(self) -> dict[str, int]:
        """How many jobs have ended, by terminal status."""
        with unavailable_when_away():
            counts = cast("dict[bytes, bytes]", await self._redis.hgetall(keys.ENDED))
        return {status: int(counts.get(status.encode(), 0)) for status in sorted(TERMINAL)}

    async def dead(self) -> list[str]:
        """Ids of the jobs that failed because their workers kept dying, oldest first."""
        with unavailable_when_away():
            return await self._members(keys.DEAD)

    async def beat(self, worker_id: str, info: dict[str, Any]) -> None:
        """Says that a worker lives; forgotten one lease after the last beat."""
        where = [keys.worker(worker_id), keys.WORKERS]
        await self._run("beat", where, [worker_id, json.dumps(info)])

    async def workers(self) -> dict[str, dict[str, Any]]:
        """The last beat of every live worker, by id; `at` is the server's clock."""
        with unavailable_when_away():
            names = await self._members(keys.WORKERS)
            pipe = self._redis.pipeline(transaction=False)
            for name in names:
                pipe.hmget(keys.worker(name), ["info", "at"])
            beats: list[Any] = await pipe.execute()
        return {
            name: {**json.loads(info), "at": float(at)}
            for name, (info, at) in zip(names, beats, strict=True)
            if info is not None
        }

    async def _members(self, key: str) -> list[str]:
        reply = await self._redis.zrange(key, 0, -1)  # pyright: ignore[reportUnknownMemberType] - an open Callable in redis-py
        return [member.decode() for member in cast("list[bytes]", reply)]

    async def _finish(
        self, lease: Lease, to: JobStatus, detail: str = "", result: bytes = b""
    ) -> bool:
        where = [lease.stream, keys.PACE, keys.ENDED]
        return await self._fenced("finish", lease, where, [to, detail, result])

    async def _fenced(
        self, name: str, lease: Lease, where: Sequence[str], args: Sequence[Argument]
    ) -> bool:
        fence = (lease.job_id, lease.worker_id, lease.attempt)
        reply = await self._run(name, [*where, *keys.of_job(lease.job_id)], [*fence, *args])
        return reply == 1

    async def _run(self, name: str, where: Sequence[str], args: Sequence[Argument] = ()) -> Reply:
        try:
            return await self._scripts.run(name, where, args)
        except ResponseError as error:
            # The server came back empty. Submit and claim look at the groups before they write.
            if "NOGROUP" not in str(error):
                raise
        await self.setup()
        return await self._scripts.run(name, where, args)

    def _refuse(self, figures: Sequence[bytes | int]) -> None:
        waiting, running, pace = int(figures[0]), int(figures[1]), figures[2]
        wait_s = float(pace) / max(1, running) if pace else _RETRY_AFTER_S
        limit = self._settings.queue_limit
        raise QueueFull(
            f"{waiting} jobs wait and the limit is {limit}",
            retry_after_s=min(_MAX_RETRY_AFTER_S, max(1, math.ceil(wait_s))),
        )


def _job_of(job_id: str, record: dict[bytes, bytes]) -> Job:
    fields: dict[str, Any] = {name.decode(): value.decode() for name, value in record.items()}
    for name in _JSON_FIELDS:
        if name in fields:
            fields[name] = json.loads(fields[name])
    return Job.model_validate({"id": job_id, **fields})
