"""Following a job's events: replay what was missed, then live, until the job has ended."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final, cast

from redis.asyncio import Redis

from service import keys
from service.connection import MAX_BLOCK_S, unavailable_when_away
from service.errors import NotFound
from service.events import envelope
from service.jobs import TERMINAL, JobStatus

_BATCH: Final = 100

_Entry = tuple[bytes, dict[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class StreamItem:
    """One event, with the bytes of a preview; or a heartbeat, whose event is None."""

    event: dict[str, Any] | None
    frame: bytes | None = None


HEARTBEAT: Final = StreamItem(event=None)


@dataclass(frozen=True, slots=True)
class _Head:
    """How far a job has come."""

    ended: bool
    seq: int


async def follow(
    redis: Redis, job_id: str, after: int = 0, heartbeat_s: float = 10.0
) -> AsyncGenerator[StreamItem]:
    """Yields the events with `seq` above `after`, ending after the terminal status event.

    A HEARTBEAT comes whenever nothing happened for `heartbeat_s`. Of the previews that pile up
    only the newest is yielded, so a slow reader never slows the worker. Raises NotFound when there
    is no such job (or it vanishes), ServerUnavailable when Redis is away.
    """
    head = await _head(redis, job_id)
    # A number from the future (a made-up one, or from before data loss) must not hide events.
    position = max(0, min(after, head.seq))
    loop = asyncio.get_running_loop()
    beat_at = loop.time() + heartbeat_s
    while not (head.ended and position >= head.seq):
        batch = await _read(redis, job_id, position, beat_at - loop.time())
        for item in await _items(redis, job_id, batch):
            yield item
            beat_at = loop.time() + heartbeat_s
        if batch:
            position = _seq_of(batch[-1])
            if not _is_terminal(batch[-1]):
                continue
            return
        head = await _head(redis, job_id)
        position = min(position, head.seq)
        if loop.time() >= beat_at:
            yield HEARTBEAT
            beat_at = loop.time() + heartbeat_s


async def _head(redis: Redis, job_id: str) -> _Head:
    with unavailable_when_away():
        status, seq = await _fields(redis, keys.job(job_id), "status", "seq")
    if status is None or seq is None:
        raise NotFound(f"no job {job_id!r}")
    return _Head(ended=JobStatus(status.decode()) in TERMINAL, seq=int(seq))


async def _fields(redis: Redis, key: str, *names: str) -> list[bytes | None]:
    return cast("list[bytes | None]", await redis.hmget(key, list(names)))


async def _read(redis: Redis, job_id: str, position: int, wait_s: float) -> list[_Entry]:
    """The entries after `position`, waiting up to `wait_s` for the first."""
    block_ms = max(1, round(min(wait_s, MAX_BLOCK_S) * 1000))
    with unavailable_when_away():
        reply: Any = await redis.xread(
            {keys.events(job_id): f"{position}-0"}, count=_BATCH, block=block_ms
        )
    return cast("list[_Entry]", reply[0][1]) if reply else []


async def _items(redis: Redis, job_id: str, batch: list[_Entry]) -> list[StreamItem]:
    """The batch as items, without the previews that a newer one has replaced."""
    previews = [_seq_of(entry) for entry in batch if entry[1][b"type"] == b"preview"]
    frame = await _frame(redis, job_id, previews[-1]) if previews else None
    items: list[StreamItem] = []
    for entry in batch:
        seq = _seq_of(entry)
        if entry[1][b"type"] != b"preview":
            items.append(StreamItem(_event_of(job_id, entry)))
        elif seq == previews[-1] and frame is not None:
            items.append(StreamItem(_event_of(job_id, entry), frame))
    return items


async def _frame(redis: Redis, job_id: str, seq: int) -> bytes | None:
    """The preview's bytes if it is still the newest one."""
    with unavailable_when_away():
        newest, frame = await _fields(redis, keys.preview(job_id), "seq", "frame")
    return frame if newest is not None and int(newest) == seq else None


def _event_of(job_id: str, entry: _Entry) -> dict[str, Any]:
    fields = entry[1]
    return envelope(
        fields[b"type"].decode(),
        json.loads(fields[b"data"]),
        seq=_seq_of(entry),
        job_id=job_id,
        at=float(fields[b"at"]),
    )


def _seq_of(entry: _Entry) -> int:
    return int(entry[0].split(b"-")[0])


def _is_terminal(entry: _Entry) -> bool:
    fields = entry[1]
    if fields[b"type"] != b"status":
        return False
    return JobStatus(json.loads(fields[b"data"])["status"]) in TERMINAL
