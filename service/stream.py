"""A job's event log as followers read it: whole, from any event on, or what is new."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, cast

from redis.asyncio import Redis

from service import keys
from service.connection import unavailable_when_away
from service.errors import NotFound
from service.events import envelope, snapshot
from service.jobs import TERMINAL, JobStatus

BATCH: Final = 100
# ComfyUI's PREVIEW_IMAGE_WITH_METADATA, so that its clients can read our frames.
PREVIEW_FRAME: Final = 4
_PREVIEW_FIELDS = ("job_id", "seq", "step", "steps", "width", "height")
REPLAY_GAP: Final = "replay_gap"

Entry = tuple[bytes, dict[bytes, bytes]]


@dataclass(frozen=True)
class StreamItem:
    """One event, with the bytes of a preview; or a heartbeat, whose event is None.

    An event without a `seq` is not in the log. What goes over the wire is made once, however many
    followers it is sent to.
    """

    event: dict[str, Any] | None
    frame: bytes | None = None

    @property
    def seq(self) -> int | None:
        """The event's place in the log, if it has one."""
        return None if self.event is None else self.event.get("seq")

    @property
    def ends(self) -> bool:
        """Whether nothing can come after it."""
        event = self.event
        return (
            event is not None
            and event["type"] == "status"
            and JobStatus(event["status"]) in TERMINAL
        )

    @cached_property
    def text(self) -> str:
        """The event as JSON."""
        return json.dumps(self.event)

    @cached_property
    def sse(self) -> bytes:
        """The event as one block of server-sent events; a preview's picture as a data: URL."""
        event = self.event
        if event is None:
            return b": heartbeat\n\n"
        text = self.text
        if self.frame is not None:
            data = base64.b64encode(self.frame).decode()
            text = json.dumps({**event, "image": f"data:{event['content_type']};base64,{data}"})
        number = f"id: {event['seq']}\n" if "seq" in event else ""
        return f"{number}event: {event['type']}\ndata: {text}\n\n".encode()

    @cached_property
    def binary(self) -> bytes:
        """A preview as one frame: uint32 4, uint32 length, JSON, picture; integers big-endian."""
        event, frame = self.event, self.frame
        assert event is not None, "a heartbeat has no frame"
        assert frame is not None, "only previews have a frame"
        facts = {name: event[name] for name in _PREVIEW_FIELDS}
        facts["image_type"] = event["content_type"]
        text = json.dumps(facts).encode()
        return struct.pack(">II", PREVIEW_FRAME, len(text)) + text + frame


HEARTBEAT: Final = StreamItem(event=None)


@dataclass(frozen=True, slots=True)
class Head:
    """How far a job has come."""

    status: JobStatus
    attempt: int
    seq: int

    @property
    def ended(self) -> bool:
        """Whether its log is complete."""
        return self.status in TERMINAL


async def head(redis: Redis, job_id: str) -> Head:
    """Raises NotFound where there is no such job, ServerUnavailable when Redis is away."""
    with unavailable_when_away():
        status, attempt, seq = await _fields(redis, keys.job(job_id), "status", "attempt", "seq")
    if status is None or attempt is None or seq is None:
        raise NotFound(f"no job {job_id!r}")
    return Head(JobStatus(status.decode()), int(attempt), int(seq))


async def replay(redis: Redis, job_id: str, after: int) -> AsyncGenerator[StreamItem]:
    """Yields what the log holds above `after` now; of its previews only the newest.

    Where the log has lost what comes next, an `error` event `replay_gap` and the job's status come
    first, both without a number. Raises NotFound, or ServerUnavailable when Redis is away.
    """
    position = after
    while True:
        with unavailable_when_away():
            reply: Any = await redis.xrange(keys.events(job_id), f"({position}-0", count=BATCH)
        batch = cast("list[Entry]", reply)
        if batch and seq_of(batch[0]) > position + 1:
            for item in await _gap(redis, job_id, position, seq_of(batch[0])):
                yield item
        previews = _previews(batch)
        frame = await _frame(redis, job_id, previews[-1]) if previews else None
        for item in items_of(job_id, batch, frame):
            yield item
        if len(batch) < BATCH:
            return
        position = seq_of(batch[-1])


async def _gap(redis: Redis, job_id: str, after: int, first: int) -> list[StreamItem]:
    now = await head(redis, job_id)
    message = f"events {after + 1} to {first - 1} are no longer kept"
    lost = {"code": REPLAY_GAP, "message": message, "retryable": False}
    state = {"status": now.status.value, "attempt": now.attempt}
    return [
        StreamItem(snapshot("error", lost, job_id=job_id)),
        StreamItem(snapshot("status", state, job_id=job_id)),
    ]


def items_of(job_id: str, batch: list[Entry], frame: tuple[int, bytes] | None) -> list[StreamItem]:
    """Entries as items, without the previews that a newer one has replaced.

    `frame` is the newest preview's bytes with the seq of its event.
    """
    items: list[StreamItem] = []
    for entry in batch:
        seq, fields = seq_of(entry), entry[1]
        kind = fields[b"type"].decode()
        if kind == "preview" and (frame is None or frame[0] != seq):
            continue
        event = envelope(
            kind, json.loads(fields[b"data"]), seq=seq, job_id=job_id, at=float(fields[b"at"])
        )
        items.append(StreamItem(event, frame[1] if kind == "preview" and frame else None))
    return items


def seq_of(entry: Entry) -> int:
    """The number of a log entry."""
    return int(entry[0].split(b"-")[0])


def _previews(batch: list[Entry]) -> list[int]:
    return [seq_of(entry) for entry in batch if entry[1][b"type"] == b"preview"]


async def _frame(redis: Redis, job_id: str, seq: int) -> tuple[int, bytes] | None:
    """The preview's bytes if it is still the newest one."""
    with unavailable_when_away():
        newest, frame = await _fields(redis, keys.preview(job_id), "seq", "frame")
    return (seq, frame) if newest is not None and int(newest) == seq and frame is not None else None


async def _fields(redis: Redis, key: str, *names: str) -> list[bytes | None]:
    return cast("list[bytes | None]", await redis.hmget(key, list(names)))
