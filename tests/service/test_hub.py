"""Following jobs: replay, live events, the end, previews, heartbeats, and many readers."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from service import keys, tasks
from service.connection import connect
from service.errors import NotFound, ServerUnavailable, TooManyStreams
from service.events import PreviewEvent, ProgressEvent
from service.hub import Hub
from service.jobs import ErrorInfo, OutputInfo
from service.queue import JobQueue
from service.settings import Settings
from service.stream import HEARTBEAT, StreamItem
from service.work import Lease
from tests.conftest import WaitUntil
from tests.service.conftest import RESULT, Submit

STEPS = 4


def _step(step: int) -> ProgressEvent:
    return ProgressEvent(step, STEPS, "restoring", 1000 - step, 0.5, 0.1)


def _preview(step: int) -> PreviewEvent:
    return PreviewEvent(step, STEPS, 64, 48, "image/jpeg")


def _brief(item: StreamItem) -> str:
    """`3 progress 1`, `5 status running`, ... or `heartbeat`."""
    if item.event is None:
        return "heartbeat"
    detail = item.event.get("status") or item.event.get("step") or item.event.get("code") or ""
    return f"{item.event['seq']} {item.event['type']} {detail}".strip()


async def _all(items: AsyncIterator[StreamItem]) -> list[str]:
    return [_brief(item) async for item in items]


async def _next(items: AsyncIterator[StreamItem]) -> StreamItem:
    return await asyncio.wait_for(anext(items), 10)


@pytest.fixture
async def hub(redis: Redis) -> AsyncIterator[Hub]:
    made = Hub(redis, max_streams=100)
    async with made.running():
        yield made


@pytest.fixture
async def lease(queue: JobQueue, submit: Submit) -> Lease:
    """A job in the hands of a worker."""
    await submit()
    [held] = await queue.claim("w", 1)
    return held


async def test_a_finished_job_is_replayed_and_the_stream_ends(
    queue: JobQueue, hub: Hub, lease: Lease, output_info: OutputInfo
) -> None:
    await queue.emit(lease, _step(1))
    await queue.emit(lease, _step(2))
    await queue.succeed(lease, output_info, RESULT)
    items = [item async for item in hub.follow("job")]
    assert [_brief(item) for item in items] == [
        "1 status queued",
        "2 status running",
        "3 progress 1",
        "4 progress 2",
        "5 output",
        "6 status succeeded",
    ]
    event = items[2].event
    assert event is not None
    assert event["at"] > 1e9
    assert event.items() >= {"job_id": "job", "value": 0.25, "stage": "restoring"}.items()
    assert [item.event["sha256"] for item in items if item.event and "sha256" in item.event] == [
        output_info.sha256
    ]


@pytest.mark.parametrize("after", [0, 1, 3, 5])
async def test_a_replay_starts_after_the_last_event_that_was_seen(
    queue: JobQueue, hub: Hub, lease: Lease, after: int
) -> None:
    await queue.emit(lease, _step(1))
    await queue.fail(lease, ErrorInfo(code="engine_failed", message="no memory"))
    everything = [
        "1 status queued",
        "2 status running",
        "3 progress 1",
        "4 error engine_failed",
        "5 status failed",
    ]
    assert await _all(hub.follow("job", after=after)) == everything[after:]


async def test_events_arrive_live_and_the_end_ends_the_stream(
    queue: JobQueue, hub: Hub, lease: Lease, output_info: OutputInfo
) -> None:
    async with aclosing(hub.follow("job", after=1)) as items:
        assert _brief(await _next(items)) == "2 status running"
        arriving = asyncio.create_task(_next(items))
        await queue.emit(lease, _step(1))
        assert _brief(await arriving) == "3 progress 1"
        arriving = asyncio.create_task(_all(items))
        await queue.succeed(lease, output_info, RESULT)
        assert await asyncio.wait_for(arriving, 10) == ["4 output", "5 status succeeded"]


async def test_a_stream_outlives_the_loss_of_a_worker(
    queue: JobQueue, hub: Hub, lease: Lease, output_info: OutputInfo
) -> None:
    await queue.emit(lease, _step(1))
    await queue.release(lease, count_attempt=True)
    [second] = await queue.claim("b", 1)
    await queue.succeed(second, output_info, RESULT)
    assert await _all(hub.follow("job", after=3)) == [
        "4 status queued",
        "5 status running",
        "6 output",
        "7 status succeeded",
    ]


async def test_a_preview_brings_its_picture(queue: JobQueue, hub: Hub, lease: Lease) -> None:
    async with aclosing(hub.follow("job", after=2)) as items:
        for step in (1, 2):
            await queue.emit(lease, _preview(step), b"frame %d" % step)
            item = await _next(items)
            assert _brief(item) == f"{step + 2} preview {step}"
            assert item.frame == b"frame %d" % step


async def test_of_previews_that_pile_up_only_the_newest_is_sent(
    queue: JobQueue, hub: Hub, lease: Lease
) -> None:
    for step in (1, 2, 3):
        await queue.emit(lease, _step(step))
        await queue.emit(lease, _preview(step), b"frame %d" % step)
    async with aclosing(hub.follow("job", after=2)) as items:
        seen = [await _next(items) for _ in range(4)]
    assert [_brief(item) for item in seen] == [
        "3 progress 1",
        "5 progress 2",
        "7 progress 3",
        "8 preview 3",
    ]
    assert [item.frame for item in seen] == [None, None, None, b"frame 3"]


async def test_a_preview_replaced_while_it_was_read_is_left_to_its_successor(
    queue: JobQueue, hub: Hub, redis: Redis, lease: Lease
) -> None:
    # As when the third preview came between the reading of the log and of the frame.
    for step in (1, 2, 3):
        await queue.emit(lease, _preview(step), b"frame %d" % step)
    await redis.xdel(keys.events("job"), "5-0")
    async with aclosing(hub.follow("job", after=2, heartbeat_s=0.02)) as items:
        assert await _next(items) == HEARTBEAT


async def test_the_newest_preview_is_kept_for_those_who_come_after_the_end(
    queue: JobQueue, hub: Hub, lease: Lease, output_info: OutputInfo
) -> None:
    await queue.emit(lease, _preview(1), b"frame 1")
    await queue.emit(lease, _preview(2), b"frame 2")
    await queue.succeed(lease, output_info, RESULT)
    frames = [item.frame async for item in hub.follow("job") if item.frame is not None]
    assert frames == [b"frame 2"]


async def test_silence_is_filled_with_heartbeats(hub: Hub, lease: Lease) -> None:
    async with aclosing(hub.follow("job", after=2, heartbeat_s=0.02)) as items:
        assert [await _next(items) for _ in range(3)] == [HEARTBEAT] * 3


async def test_a_number_from_the_future_hides_no_event(
    queue: JobQueue, hub: Hub, lease: Lease
) -> None:
    async with aclosing(hub.follow("job", after=999, heartbeat_s=0.02)) as items:
        assert await _next(items) == HEARTBEAT
        await queue.emit(lease, _step(1))
        while (item := await _next(items)) == HEARTBEAT:
            pass
        assert _brief(item) == "3 progress 1"


async def test_many_followers_see_the_same_events(
    queue: JobQueue, hub: Hub, lease: Lease, output_info: OutputInfo
) -> None:
    following = [asyncio.create_task(_all(hub.follow("job"))) for _ in range(20)]
    for step in range(1, STEPS + 1):
        await queue.emit(lease, _step(step))
    await queue.succeed(lease, output_info, RESULT)
    seen = await asyncio.wait_for(asyncio.gather(*following), 10)
    assert all(events == seen[0] for events in seen)
    assert len(seen[0]) == STEPS + 4


async def test_the_log_of_a_talkative_job_is_capped_and_keeps_its_end(
    queue: JobQueue, hub: Hub, lease: Lease, output_info: OutputInfo
) -> None:
    calls = 2 * keys.EVENTS_MAXLEN
    for call in range(0, calls, 100):
        await asyncio.gather(*(queue.emit(lease, _step(call + n)) for n in range(100)))
    await queue.succeed(lease, output_info, RESULT)
    kept = [item.event async for item in hub.follow("job")]
    # MAXLEN ~ drops whole nodes of the log, of a hundred entries each.
    assert keys.EVENTS_MAXLEN <= len(kept) <= keys.EVENTS_MAXLEN + 200
    numbers = [event["seq"] for event in kept if event and "seq" in event]
    assert numbers == list(range(numbers[0], calls + 5))
    assert kept[-1] is not None
    assert kept[-1]["status"] == "succeeded"


async def test_an_unknown_job_is_not_found(hub: Hub) -> None:
    with pytest.raises(NotFound, match="'nobody'"):
        await anext(hub.follow("nobody"))


async def test_a_job_that_vanishes_is_not_found(
    hub: Hub, redis: Redis, lease: Lease, wait_until: WaitUntil
) -> None:
    async with aclosing(hub.follow("job", after=2, heartbeat_s=0.02)) as items:
        assert await _next(items) == HEARTBEAT
        await redis.delete(*keys.of_job("job"))

        async def vanished() -> bool:
            try:
                await _next(items)
            except NotFound:
                return True
            return False

        await wait_until(vanished)


async def test_a_stream_says_when_redis_is_away(tmp_path: Path) -> None:
    client = connect(Settings(redis_url=f"unix://{tmp_path}/nobody.sock"))
    client.set_retry(Retry(NoBackoff(), 0))  # the outage lasts; retries only take time
    with pytest.raises(ServerUnavailable):
        await anext(Hub(client, 9).follow("job"))
    await client.aclose()


async def test_a_reader_that_is_too_slow_reads_the_log_again_and_misses_nothing(
    hub: Hub, queue: JobQueue, lease: Lease, output_info: OutputInfo
) -> None:
    calls = 600
    async with aclosing(hub.follow("job", after=2)) as items:
        first = asyncio.create_task(_next(items))
        for call in range(0, calls, 100):
            await asyncio.gather(*(queue.emit(lease, _step(call + n)) for n in range(100)))
        seen = [(await first).seq]
        await queue.succeed(lease, output_info, RESULT)
        seen += [item.seq async for item in items]
    assert seen == list(range(3, calls + 5))


async def test_readers_go_on_after_their_connections_were_cut(
    hub: Hub, queue: JobQueue, redis: Redis, lease: Lease, output_info: OutputInfo
) -> None:
    async with aclosing(hub.follow("job", after=1)) as items:
        await _next(items)
        following = asyncio.create_task(_all(items))
        await redis.client_kill_filter(_type="pubsub")
        await queue.emit(lease, _step(1))
        await queue.succeed(lease, output_info, RESULT)
        assert await asyncio.wait_for(following, 10) == [
            "3 progress 1",
            "4 output",
            "5 status succeeded",
        ]


async def test_what_is_told_live_reaches_every_follower_and_has_no_number(
    hub: Hub, lease: Lease
) -> None:
    async with aclosing(hub.follow("job", 1)) as one, aclosing(hub.follow("job", 1)) as other:
        for items in (one, other):
            await _next(items)
        waiting = [asyncio.create_task(_next(items)) for items in (one, other)]
        await asyncio.wait(waiting, timeout=0.01)
        told = StreamItem({"type": "eta", "job_id": "job", "position": 3})
        hub.tell("job", told)
        assert [await item for item in waiting] == [told, told]
        hub.tell("another", told)


async def test_what_is_told_after_the_end_does_not_hold_the_stream_open(
    hub: Hub, queue: JobQueue, lease: Lease, output_info: OutputInfo, monkeypatch
) -> None:
    told = StreamItem({"type": "eta", "job_id": "job", "position": 0})
    distribute = hub._read

    async def read_and_tell(job_ids: list[str]) -> None:
        await distribute(job_ids)
        hub.tell("job", told)

    monkeypatch.setattr(hub, "_read", read_and_tell)
    async with aclosing(hub.follow("job", 2, 0.05)) as items:
        assert await _next(items) in (told, HEARTBEAT)
        await queue.succeed(lease, output_info, RESULT)
        rest = await asyncio.wait_for(_rest(items), 10)
    assert "succeeded" in [item.event.get("status") for item in rest if item.event]


async def _rest(items: AsyncIterator[StreamItem]) -> list[StreamItem]:
    return [item async for item in items]


async def test_followers_share_the_same_item(hub: Hub, queue: JobQueue, lease: Lease) -> None:
    async with aclosing(hub.follow("job", 1)) as one, aclosing(hub.follow("job", 1)) as other:
        for items in (one, other):
            await _next(items)
        waiting = [asyncio.create_task(_next(items)) for items in (one, other)]
        await asyncio.wait(waiting, timeout=0.01)
        await queue.emit(lease, _step(1))
        first, second = [await item for item in waiting]
        assert first is second


async def test_a_silent_stream_keeps_nothing_that_it_sent(
    hub: Hub, queue: JobQueue, lease: Lease, wait_until: WaitUntil
) -> None:
    sent: list[weakref.ref[StreamItem]] = []

    async def follow() -> None:
        async for batch in hub.batches("job", 1):
            sent.extend(weakref.ref(item) for item in batch)
            del batch

    async with tasks.running(follow()):
        await wait_until(lambda: len(sent) == 1)
        await queue.emit(lease, _preview(1), b"picture")
        await wait_until(lambda: len(sent) == 2)
        await wait_until(lambda: not any(item() for item in sent))


async def test_a_job_that_nobody_follows_is_forgotten(
    hub: Hub, lease: Lease, wait_until: WaitUntil
) -> None:
    async with aclosing(hub.follow("job", 1)) as items:
        await _next(items)
        waiting = asyncio.create_task(_next(items))
        await wait_until(lambda: list(hub.jobs) == ["job"])
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert list(hub.jobs) == []


async def test_more_streams_than_the_limit_are_refused(redis: Redis, lease: Lease) -> None:
    hub = Hub(redis, max_streams=1)
    hub.check_room()
    async with hub.running(), aclosing(hub.follow("job", 2, 0.05)) as items:
        assert await _next(items) == HEARTBEAT
        with pytest.raises(TooManyStreams, match="1 streams are open and the limit is 1"):
            hub.check_room()
