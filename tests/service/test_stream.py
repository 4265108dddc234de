"""The log of a job as items: wire forms, and what was lost from a long log."""

from __future__ import annotations

import base64
import json
import struct

import pytest
from redis.asyncio import Redis

from service import keys
from service.errors import NotFound
from service.events import ProgressEvent
from service.queue import JobQueue
from service.stream import HEARTBEAT, StreamItem, head, replay
from tests.service.conftest import Submit

PREVIEW = {
    "type": "preview",
    "seq": 7,
    "job_id": "job",
    "at": 1.5,
    "step": 2,
    "steps": 4,
    "width": 64,
    "height": 48,
    "content_type": "image/jpeg",
}


def test_an_event_is_one_block_of_server_sent_events() -> None:
    item = StreamItem({"type": "status", "seq": 3, "status": "running"})
    assert item.sse == b'id: 3\nevent: status\ndata: {"type": "status", "seq": 3, ' + (
        b'"status": "running"}\n\n'
    )


def test_an_event_that_is_not_in_the_log_has_no_id_to_resume_from() -> None:
    item = StreamItem({"type": "eta", "job_id": "job", "likely_s": 2.0})
    assert item.seq is None
    assert item.sse.startswith(b"event: eta\ndata: ")


def test_a_heartbeat_is_a_comment() -> None:
    assert HEARTBEAT.sse == b": heartbeat\n\n"


def test_a_preview_brings_its_picture_as_a_data_url_or_as_bytes() -> None:
    item = StreamItem(PREVIEW, b"picture")
    data = json.loads(item.sse.split(b"data: ", 1)[1])
    assert data["image"] == "data:image/jpeg;base64," + base64.b64encode(b"picture").decode()
    assert item.binary.startswith(b"\0\0\0\x04\0\0\0")  # big-endian
    kind, length = struct.unpack(">II", item.binary[:8])
    facts = json.loads(item.binary[8 : 8 + length])
    assert (kind, item.binary[8 + length :]) == (4, b"picture")
    assert facts == {
        name: PREVIEW[name] for name in ("job_id", "seq", "step", "steps", "width", "height")
    } | {"image_type": "image/jpeg"}


@pytest.mark.parametrize(
    ("status", "ends"),
    [("queued", False), ("running", False), ("canceling", False), ("failed", True)],
)
def test_only_a_terminal_status_ends_a_stream(status: str, ends: bool) -> None:
    assert StreamItem({"type": "status", "status": status}).ends is ends


async def test_a_head_says_how_far_a_job_has_come(
    queue: JobQueue, redis: Redis, submit: Submit
) -> None:
    await submit()
    await queue.claim("w", 1)
    now = await head(redis, "job")
    assert (now.status, now.attempt, now.seq, now.ended) == ("running", 1, 2, False)
    with pytest.raises(NotFound, match="'nobody'"):
        await head(redis, "nobody")


async def test_what_the_log_no_longer_holds_is_told_before_the_rest(
    queue: JobQueue, redis: Redis, submit: Submit
) -> None:
    await submit()
    [lease] = await queue.claim("w", 1)
    for step in (1, 2, 3):
        await queue.emit(lease, ProgressEvent(step, 4, "restoring"))
    await redis.xtrim(keys.events("job"), minid="5-0", approximate=False)
    events = [item.event async for item in replay(redis, "job", 2)]
    lost, state, last = (event or {} for event in events)
    assert (lost["type"], lost["code"]) == ("error", "replay_gap")
    assert lost["message"] == "events 3 to 4 are no longer kept"
    assert (state["type"], state["status"], "seq" in state) == ("status", "running", False)
    assert (last["type"], last["seq"]) == ("progress", 5)


async def test_a_resume_point_that_is_still_held_leaves_no_gap(
    queue: JobQueue, redis: Redis, submit: Submit
) -> None:
    await submit()
    await queue.claim("w", 1)
    await redis.xtrim(keys.events("job"), minid="2-0", approximate=False)
    assert [item.seq async for item in replay(redis, "job", 1)] == [2]
