"""The job queue: sorted sets, leases and deadlines; every change of state one atomic Lua script.

Within a priority callers take turns, however many jobs each has waiting (start-time fair
queueing). A claim is a lease. Heartbeats (`renew`) extend it; a silent worker's jobs wait again
with their attempt counted. Delivery is at least once; a result is accepted once, because every
write of a worker is fenced by owner, attempt and status.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final, Literal, cast
from uuid import uuid4

from redis.asyncio import Redis

from service import keys
from service.connection import MAX_BLOCK_S, unavailable_when_away
from service.errors import IdempotencyKeyReuse, NotFound, QueueFull
from service.events import Event, payload, type_of
from service.jobs import (
    TERMINAL,
    ErrorInfo,
    Job,
    JobStatus,
    OutputInfo,
    RestoreOptions,
)
from service.results import BlobKind, BlobStore, RedisBlobStore
from service.scripts import Argument, Reply, Scripts
from service.settings import Settings
from service.work import Admission, Cost, Lease, LeaseState, Load, Loaded, Submission

_JSON_FIELDS: Final = ("options", "source", "resolved", "progress", "output", "error")
_RETRY_AFTER_S: Final = 5  # while nothing has been measured
_MAX_RETRY_AFTER_S: Final = 60


class JobQueue:
    """The queue as the API (submit, get, cancel) and the workers (the rest) see it.

    The API's calls raise ServerUnavailable when Redis is away; a worker's calls let Redis errors
    through, for a worker to wait and try again.
    """

    def __init__(self, redis: Redis, settings: Settings, blobs: BlobStore | None = None) -> None:
        self._redis = redis
        self._settings = settings
        self._blobs = blobs or RedisBlobStore(redis, settings)
        self._scripts = Scripts(redis, settings)
        self._unheard: dict[str, str] = {}  # claims that were not answered, by worker
        self._heard = {keys.BELL: b"0-0", keys.NUDGE: b"0-0"}  # the last news of each

    async def submit(self, job_id: str, asked: Submission) -> Admission:
        """Admits a job. The same id, or the caller's same key, again returns the job that exists.

        Raises IdempotencyKeyReuse where that job was made by another request, QueueFull at
        `queue_limit` waiting jobs, ServerUnavailable when Redis is away.
        """
        options, key, inline = asked.options, asked.idempotency_key, self._blobs.inline
        if not inline:
            await self._blobs.put(BlobKind.SOURCE, job_id, asked.image)
        where = [*keys.queues(), keys.idempotency(asked.caller, key or ""), *keys.of_job(job_id)]
        with unavailable_when_away():
            reply = await self._reuse(job_id, asked, where) or await self._scripts.run(
                "submit",
                where,
                [
                    job_id,
                    options.priority,
                    asked.caller,
                    self._settings.queue_limit,
                    self._settings.max_attempts,
                    options.model_dump_json(exclude_defaults=True),
                    asked.source.model_dump_json(),
                    asked.payload,
                    int(key is not None),
                    asked.image if inline else b"",
                    "" if options.start_by is None else options.start_by,
                    "" if options.finish_by is None else options.finish_by,
                    asked.pace_key,
                    asked.source.width * asked.source.height,
                    asked.cache_key,
                ],
            )
        verdict, *figures = cast("list[bytes | int]", reply)
        if verdict == b"full":
            self._refuse(figures)
        if verdict == b"reused":
            said = f"the id {job_id!r}" if key is None else f"the idempotency key {key!r}"
            raise IdempotencyKeyReuse(f"{said} stands for another request")
        found = cast("bytes", figures[0]).decode()
        return Admission(await self.get(found), replayed=verdict == b"known")

    async def _reuse(self, job_id: str, asked: Submission, where: list[str]) -> Reply:
        """As submit, for a request that an earlier one has answered; None where none has."""
        if not asked.fingerprint or not asked.cache_key or not self._settings.result_cache:
            return None
        equal = await self._redis.get(keys.cache(asked.cache_key, asked.fingerprint))
        old = cast("bytes | None", equal)
        result = old and await self._blobs.get(BlobKind.RESULT, old.decode())
        if not old or not result:
            return None
        if not self._blobs.inline:
            await self._blobs.put(BlobKind.RESULT, job_id, result)
        arguments: list[Argument] = [
            job_id,
            asked.options.priority,
            asked.caller,
            old,
            asked.options.model_dump_json(exclude_defaults=True),
            asked.source.model_dump_json(),
            asked.payload,
            int(asked.idempotency_key is not None),
            result if self._blobs.inline else b"",
        ]
        reply = await self._scripts.run("reuse", where, arguments)
        return None if reply == [b"gone"] else reply

    async def load(self, waiting: int) -> Load:
        """Held and waiting jobs, of the latter at most so many, in the order of their claim."""
        with unavailable_when_away():
            reply: Any = await self._scripts.run("load", keys.queues(), [waiting])
        held, queued, count, crowding = reply
        rows = [_loaded(row) for row in held], [_loaded(row) for row in queued]
        return Load(*rows, count, float(crowding))

    async def costs(self) -> dict[str, list[float]]:
        """What finished jobs have cost: the arguments of `service.forecast.CostModel`."""
        with unavailable_when_away():
            sums = cast("dict[bytes, bytes]", await self._redis.hgetall(keys.COSTS))
        return {kind.decode(): json.loads(text) for kind, text in sums.items()}

    async def predict(self, job_id: str, seconds: float) -> None:
        """Remembers the first prediction of a job's whole time, for `accuracy`."""
        with unavailable_when_away():
            await self._scripts.run("predict", keys.of_job(job_id), [job_id, seconds])

    async def accuracy(self) -> list[float]:
        """How far the predictions for the last jobs were off, each as a share of its time."""
        with unavailable_when_away():
            found: Any = await self._redis.lrange(keys.ACCURACY, 0, -1)
        return [float(share) for share in found]

    async def get(self, job_id: str) -> Job:
        """The job's record. Raises NotFound, or ServerUnavailable when Redis is away."""
        with unavailable_when_away():
            record = cast("dict[bytes, bytes]", await self._redis.hgetall(keys.job(job_id)))
        if not record:
            raise NotFound(f"no job {job_id!r}")
        return job_of(job_id, record)

    async def preview(self, job_id: str) -> bytes | None:
        """The newest preview's bytes, where there is one."""
        with unavailable_when_away():
            frame: Any = await self._redis.hget(keys.preview(job_id), "frame")
        return frame

    async def cancel(self, job_id: str) -> Job:
        """Cancels and returns the job: queued ends at once, running turns canceling. Idempotent.

        Raises NotFound, or ServerUnavailable when Redis is away.
        """
        with unavailable_when_away():
            await self._scripts.run("cancel", keys.of_job(job_id), [job_id])
        return await self.get(job_id)

    async def delete(self, job_id: str) -> None:
        """Ends the job if it has not ended, and forgets record, upload and result.

        Raises NotFound, or ServerUnavailable when Redis is away.
        """
        if not self._blobs.inline:
            for kind in BlobKind:
                await self._blobs.delete(kind, job_id)
        with unavailable_when_away():
            found = await self._scripts.run("delete", keys.of_job(job_id), [job_id])
        if not found:
            raise NotFound(f"no job {job_id!r}")

    async def sweep(self) -> None:
        """Ends what time has ended, also while no worker claims."""
        with unavailable_when_away():
            await self._scripts.run("sweep", keys.queues())

    async def watch(self, job_id: str, follower: str, lasts_s: float) -> bool:
        """Says that somebody follows the job for so long; 0 says that they have left.

        For jobs that are canceled when their last follower leaves and nobody comes back within
        `disconnect_grace_s`. False when the job has ended.
        """
        with unavailable_when_away():
            grace_s = self._settings.disconnect_grace_s
            args = [job_id, follower, lasts_s, grace_s]
            return await self._scripts.run("watch", keys.of_job(job_id), args) == 1

    async def claim(self, worker_id: str, n: int) -> list[Lease]:
        """Leases at most `n` jobs, by priority and then by fair share.

        What a call took whose answer was lost, the worker's next call is given again.
        """
        if n <= 0:
            return []
        name = self._unheard.pop(worker_id, None) or uuid4().hex
        where = [*keys.queues(), keys.claim(worker_id)]
        reply: Reply = None
        try:
            arguments: list[Argument] = [worker_id, n, int(self._blobs.inline), name]
            reply = await self._scripts.run("claim", where, arguments)
        finally:
            if reply is None:
                self._unheard[worker_id] = name
        return [
            Lease(
                job_id=job_id.decode(),
                worker_id=worker_id,
                attempt=attempt,
                options=RestoreOptions.model_validate_json(options),
            )
            for job_id, attempt, options in cast("list[tuple[bytes, int, bytes]]", reply)
        ]

    async def renew(self, worker_id: str, leases: Sequence[Lease]) -> dict[str, LeaseState]:
        """One heartbeat for all leases; says by job id which are held, lost or to be canceled."""
        if not leases:
            return {}
        reply = await self._scripts.run(
            "renew",
            [key for lease in leases for key in keys.of_job(lease.job_id)],
            [worker_id, *(a for lease in leases for a in (lease.job_id, lease.attempt))],
        )
        states = cast("list[bytes]", reply)
        return {
            lease.job_id: LeaseState(state.decode())
            for lease, state in zip(leases, states, strict=True)
        }

    async def start(
        self, lease: Lease, resolved: dict[str, Any], model: str, fingerprint: str = ""
    ) -> bool:
        """Records the resolved parameters and the model; False when the lease is lost."""
        return await self._fenced("start", lease, [json.dumps(resolved), model, fingerprint])

    async def emit(self, lease: Lease, event: Event, frame: bytes | None = None) -> bool:
        """Appends an event, with a preview's bytes; False when the lease is lost.

        The same event twice in a row, as when an answer was lost, is in the log once.
        """
        data = json.dumps(payload(event))
        return await self._fenced("emit", lease, [type_of(event), data, frame or b""])

    async def succeed(
        self, lease: Lease, output: OutputInfo, result: bytes, cost: Cost | None = None
    ) -> bool:
        """Stores the result and ends the job; False when lost, or when a cancel came first."""
        if not self._blobs.inline:
            await self._blobs.put(BlobKind.RESULT, lease.job_id, result)
            result = b""
        detail = output.model_dump_json()
        return await self._finish(lease, JobStatus.SUCCEEDED, detail, result, cost)

    async def fail(self, lease: Lease, error: ErrorInfo) -> bool:
        """Ends the job as failed; False when lost, or when a cancel came first."""
        return await self._finish(lease, JobStatus.FAILED, error.model_dump_json())

    async def canceled(self, lease: Lease) -> bool:
        """Ends a canceling job; False when the lease is lost or nobody asked to cancel."""
        return await self._finish(lease, JobStatus.CANCELED)

    async def release(self, lease: Lease, *, count_attempt: bool) -> bool:
        """Gives the job back, claimable at once; False when the lease is lost."""
        return await self._fenced("release", lease, [int(count_attempt)])

    async def wait_for_work(self, timeout_s: float) -> None:
        """Returns when work may have arrived, or after `timeout_s`. Reserves nothing.

        Leases that expire ring no bell: claim again at least every lease.
        """
        await self._wait_for(keys.BELL, timeout_s)

    async def wait_for_nudge(self, timeout_s: float) -> None:
        """Returns when some held job must end, or after `timeout_s`; `renew` says which."""
        await self._wait_for(keys.NUDGE, timeout_s)

    async def _wait_for(self, stream: str, timeout_s: float) -> None:
        block_ms = max(1, round(min(timeout_s, MAX_BLOCK_S) * 1000))
        news: Any = await self._redis.xread({stream: self._heard[stream]}, block=block_ms)
        for _, entries in news:
            self._heard[stream] = entries[-1][0]

    async def depth(self) -> dict[str, int]:
        """Waiting jobs by priority, and `running`."""
        with unavailable_when_away():
            reply = await self._scripts.run("depth", keys.queues())
        names = (*keys.PRIORITIES, "running")
        return dict(zip(names, cast("list[int]", reply), strict=True))

    async def ended(self) -> dict[str, int]:
        """How many jobs have ended, by terminal status."""
        with unavailable_when_away():
            counts = cast("dict[bytes, bytes]", await self._redis.hgetall(keys.ENDED))
        return {status: int(counts.get(status.encode(), 0)) for status in sorted(TERMINAL)}

    async def times(self, kind: Literal["wait", "whole"]) -> tuple[list[int], float]:
        """Jobs by how long they waited or took in all, one count for each bucket; the sum in s."""
        with unavailable_when_away():
            found = cast("dict[bytes, bytes]", await self._redis.hgetall(keys.TIMES))
        buckets = range(1, len(keys.TIMES_S) + 2)
        counts = [int(found.get(f"{kind}:{bucket}".encode(), 0)) for bucket in buckets]
        return counts, int(found.get(f"{kind}:ms".encode(), 0)) / 1000

    async def dead(self) -> list[str]:
        """Ids of the jobs that failed because their workers kept dying, oldest first."""
        with unavailable_when_away():
            return await self._members(keys.DEAD)

    async def bury(self, job_id: str, requeued_as: str) -> None:
        """Takes a job off the list of the dead, because another one was made of it."""
        with unavailable_when_away():
            pipe = self._redis.pipeline(transaction=True)
            pipe.zrem(keys.DEAD, job_id)
            if await self._redis.exists(keys.job(job_id)):
                pipe.hset(keys.job(job_id), "requeued_as", requeued_as)
            await pipe.execute()

    async def beat(self, worker_id: str, info: dict[str, Any]) -> None:
        """Says that a worker lives; forgotten one lease after the last beat."""
        where = [keys.worker(worker_id), keys.WORKERS]
        await self._scripts.run("beat", where, [worker_id, json.dumps(info)])

    async def fingerprints(self) -> set[str]:
        """Those of the models that ready workers serve."""
        beats = await self.workers()
        ready = (beat for beat in beats.values() if beat.get("ready"))
        return {str(beat.get("fingerprint", "")) for beat in ready}

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
        self,
        lease: Lease,
        to: JobStatus,
        detail: str = "",
        result: bytes = b"",
        cost: Cost | None = None,
    ) -> bool:
        spent: tuple[float, int] | tuple[str, str] = ("", "")
        if cost is not None:
            spent = (cost.seconds, cost.steps)
        return await self._fenced("finish", lease, [to, detail, result, *spent])

    async def _fenced(self, name: str, lease: Lease, args: Sequence[Argument]) -> bool:
        fence = (lease.job_id, lease.worker_id, lease.attempt)
        where = keys.of_job(lease.job_id)
        return await self._scripts.run(name, where, [*fence, *args]) == 1

    def _refuse(self, figures: Sequence[bytes | int]) -> None:
        waiting, running, pace = int(figures[0]), int(figures[1]), figures[2]
        wait_s = float(pace) / max(1, running) if pace else _RETRY_AFTER_S
        limit = self._settings.queue_limit
        raise QueueFull(
            f"{waiting} jobs wait and the limit is {limit}",
            retry_after_s=min(_MAX_RETRY_AFTER_S, max(1, math.ceil(wait_s))),
        )


def _loaded(row: list[bytes]) -> Loaded:
    job_id, pace, pixels, owner, progress, since_s = (field.decode() for field in row)
    done = float(json.loads(progress)["value"]) if progress else 0.0
    return Loaded(job_id, pace, int(pixels), owner, done, float(since_s or 0.0))


def job_of(job_id: str, record: dict[bytes, bytes]) -> Job:
    """The job that a record describes, by field name."""
    fields: dict[str, Any] = {name.decode(): value.decode() for name, value in record.items()}
    for name in _JSON_FIELDS:
        if name in fields:
            fields[name] = json.loads(fields[name])
    return Job.model_validate({"id": job_id, **fields})
