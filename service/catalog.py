"""A caller's jobs, newest first, a page at a time."""

from __future__ import annotations

import base64
import binascii
import math
from dataclasses import dataclass
from typing import Any, Final, cast

from redis.asyncio import Redis

from service import keys
from service.connection import unavailable_when_away
from service.errors import FieldError, InvalidRequest
from service.jobs import Job, JobStatus
from service.queue import job_of

_MOST_SCANNED: Final = 1000  # records looked at for one page
_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class Page:
    """Some jobs, and where the next ones begin; None at the end."""

    jobs: list[Job]
    next_cursor: str | None


async def page(
    redis: Redis, caller: str, limit: int, status: JobStatus | None, cursor: str | None
) -> Page:
    """The next `limit` jobs of a caller after a cursor, of one status if that is named.

    Raises InvalidRequest for a cursor that is none, ServerUnavailable when Redis is away.
    """
    before = (math.inf, "") if cursor is None else _position(cursor)
    found: list[Job] = []
    for _ in range(_MOST_SCANNED // _BATCH):
        batch = await _batch(redis, caller, before)
        for at, job_id, job in batch:
            before = (at, job_id)
            if job is not None and (status is None or job.status is status):
                found.append(job)
            if len(found) == limit:
                return Page(found, _cursor(before))
        if len(batch) < _BATCH:
            return Page(found, None)
    return Page(found, _cursor(before))


async def _batch(
    redis: Redis, caller: str, before: tuple[float, str]
) -> list[tuple[float, str, Job | None]]:
    """Jobs older than a position, with their records; None for one that is forgotten."""
    own, (latest, last_id) = keys.jobs(caller), before
    with unavailable_when_away():
        # Jobs of one moment come in the reverse order of their ids.
        reply: Any = await redis.zrevrangebyscore(  # pyright: ignore[reportUnknownMemberType] - an open Callable in redis-py
            own, latest, -math.inf, start=0, num=2 * _BATCH, withscores=True
        )
        rows = [(score, member.decode()) for member, score in cast("list[Any]", reply)]
        rows = [row for row in rows if row[0] < latest or row[1] < last_id][:_BATCH]
        pipe = redis.pipeline(transaction=False)
        for _, job_id in rows:
            pipe.hgetall(keys.job(job_id))
        records = cast("list[dict[bytes, bytes]]", await pipe.execute())
        if gone := [row[1] for row, record in zip(rows, records, strict=True) if not record]:
            await redis.zrem(own, *gone)
    return [
        (at, job_id, job_of(job_id, record) if record else None)
        for (at, job_id), record in zip(rows, records, strict=True)
    ]


def _cursor(position: tuple[float, str]) -> str:
    return base64.urlsafe_b64encode(f"{position[0]!r} {position[1]}".encode()).decode().rstrip("=")


def _position(cursor: str) -> tuple[float, str]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        at, _, job_id = (
            base64.b64decode(padded, altchars=b"-_", validate=True).decode().partition(" ")
        )
        return float(at), job_id
    except (binascii.Error, ValueError):
        field = FieldError(pointer="/cursor", code="cursor", message="is not a cursor of ours")
        raise InvalidRequest(f"/cursor: {cursor[:64]!r} is not a cursor of ours", [field]) from None
