"""Following thousands of jobs for thousands of readers over a handful of Redis connections.

One connection hears (by publish and subscribe) which logs have grown, and one task reads them all,
many in one round trip. A message says no more than "look again", so a lost one is harmless: every
reader also looks at the log when it has heard nothing for a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final, cast

from redis.asyncio import Redis
from redis.exceptions import RedisError

from service import keys, tasks
from service.connection import unavailable_when_away
from service.errors import ServerUnavailable, TooManyStreams
from service.stream import BATCH, HEARTBEAT, Entry, StreamItem, head, items_of, replay, seq_of

_log = logging.getLogger(__name__)

_SPOOL: Final = 256  # items that wait for a slow reader; then it reads the log again
_ROUND_TRIP: Final = 500  # logs read at once
_CROWD: Final = 100  # followers who wait for the same news
_GATHER_S: Final = 0.01
_PAUSE_S: Final = 0.2  # after an error
_POLL_S: Final = 5.0
_PLACED_S: Final = 5.0
_SELF: Final = "-hub-"  # no job has this id; keeps the subscription open


class _Reader:
    """One follower's items on their way."""

    def __init__(self) -> None:
        self._items: list[StreamItem] = []
        self._waiting: asyncio.Future[None] | None = None
        self.behind = False

    def put(self, item: StreamItem) -> None:
        """Takes an item; a preview replaces one that still waits."""
        if item.frame is not None and self._items:
            self._items = [waiting for waiting in self._items if waiting.frame is None]
        if len(self._items) >= _SPOOL:
            self._items.clear()
            self.behind = True
        else:
            self._items.append(item)
        self._wake()

    async def next(self, timeout_s: float) -> list[StreamItem]:
        """All items that are there, as soon as there is one.

        Empty after `timeout_s` without one, and when the log must be read again.
        """
        if not self._items and not self.behind:
            # Thousands wait at a time: a future and a timer are the least that can be waited on.
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            timer = loop.call_later(timeout_s, self._wake)
            try:
                await self._waiting
            finally:
                timer.cancel()
                self._waiting = None
        if self.behind:
            return []
        items, self._items = self._items, []
        return items

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)


class _Watch:
    """A job that has readers, and how far its log was read for them."""

    def __init__(self) -> None:
        self.readers: set[_Reader] = set()
        self.position: int | None = None
        self.placed = asyncio.Event()  # the position is known


class Hub:
    """Readers of jobs in one process; `running` around its use."""

    def __init__(self, redis: Redis, max_streams: int) -> None:
        self._redis = redis
        self._max_streams = max_streams
        self._watches: dict[str, _Watch] = {}
        self._dirty: set[str] = set()
        self._news = asyncio.Event()
        self._subscriptions = self._nothing_heard()
        self._closed = False
        self._subscribing = asyncio.Lock()  # two who connect at a time leave a connection behind

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Its tasks, for as long as the block lasts."""
        try:
            async with tasks.running(self._listen(), self._pump()):
                yield
        finally:
            async with self._subscribing:
                self._closed = True
                await self._subscriptions.aclose()

    @property
    def jobs(self) -> Collection[str]:
        """The jobs that somebody follows here now."""
        return self._watches.keys()

    def check_room(self) -> None:
        """Raises TooManyStreams where no further follower is taken."""
        open_now = sum(len(watch.readers) for watch in self._watches.values())
        if open_now >= self._max_streams:
            raise TooManyStreams(
                f"{open_now} streams are open and the limit is {self._max_streams}"
            )

    def tell(self, job_id: str, item: StreamItem) -> None:
        """Give all followers of a job an item that is not in its log."""
        watch = self._watches.get(job_id)
        for reader in watch.readers if watch else ():
            reader.put(item)

    async def follow(
        self, job_id: str, after: int = 0, heartbeat_s: float = 10.0
    ) -> AsyncGenerator[StreamItem]:
        """As `batches`, one by one."""
        async with aclosing(self.batches(job_id, after, heartbeat_s)) as batches:
            async for batch in batches:
                for item in batch:
                    yield item

    async def batches(
        self, job_id: str, after: int = 0, heartbeat_s: float = 10.0
    ) -> AsyncGenerator[list[StreamItem]]:
        """Yields the events with `seq` above `after`, ending after the terminal status event.

        They come in batches, never empty: what is there is there at once. A HEARTBEAT comes
        whenever nothing happened for `heartbeat_s`. Of the previews that pile up
        only the newest is yielded, so a slow reader never slows the worker. Raises NotFound when
        there is no such job (or it vanishes), ServerUnavailable when Redis is away.
        """
        start = await head(self._redis, job_id)
        # A number from the future (a made-up one, or from before data loss) must not hide events.
        position = max(0, min(after, start.seq))
        if start.ended:
            async for item in replay(self._redis, job_id, position):
                yield [item]
            return
        async with self._reading(job_id) as reader:
            silent = False
            while True:
                async for item in replay(self._redis, job_id, position):
                    position, silent = item.seq or position, False
                    yield [item]
                    if item.ends and item.seq:
                        return
                    # Thousands of silent streams would each keep the last picture they sent.
                    del item
                if silent:
                    yield [HEARTBEAT]
                reader.behind = False
                while batch := await reader.next(heartbeat_s):
                    # What is told live may have come behind the log's last event.
                    ends = any(item.ends for item in batch)
                    batch = [i for i in batch if i.seq is None or i.seq > position]
                    if batch:
                        position = max(position, *(i.seq or 0 for i in batch))
                        yield batch
                    if ends:
                        return
                    del batch
                silent = not reader.behind
                position = min(position, (await head(self._redis, job_id)).seq)

    @asynccontextmanager
    async def _reading(self, job_id: str) -> AsyncGenerator[_Reader]:
        """A reader that is told everything after what the log holds when this returns."""
        reader, watch = _Reader(), self._watches.get(job_id)
        if watch is None:
            watch = self._watches[job_id] = _Watch()
        watch.readers.add(reader)
        try:
            if len(watch.readers) == 1:
                async with self._subscribing:
                    with unavailable_when_away():
                        await self._subscriptions.subscribe(keys.live(job_id))
            try:
                async with asyncio.timeout(_PLACED_S):
                    await watch.placed.wait()
            except TimeoutError:
                raise ServerUnavailable(f"the job store was silent for {_PLACED_S:g} s") from None
            yield reader
        finally:
            watch.readers.discard(reader)
            if not watch.readers and self._watches.get(job_id) is watch:
                del self._watches[job_id]
                with suppress(RedisError):  # then the subscriptions are replaced
                    async with self._subscribing:
                        if not self._closed:
                            await self._subscriptions.unsubscribe(keys.live(job_id))

    async def _listen(self) -> None:
        prefix = keys.live("").encode()
        while True:
            try:
                # Subscribing to everything again has every job looked at anew.
                async with self._subscribing:
                    await self._subscriptions.subscribe(*map(keys.live, (_SELF, *self._watches)))
                while True:
                    message = await self._subscriptions.get_message(timeout=_POLL_S)
                    if message is not None and message["type"] in ("message", "subscribe"):
                        self._dirty.add(message["channel"].removeprefix(prefix).decode())
                        self._news.set()
            except RedisError as error:
                _log.warning("news of jobs are interrupted: %s", error)
                await asyncio.sleep(_PAUSE_S)
                # Not the old ones: they would wait for their own node, which may be gone for good.
                async with self._subscribing:
                    await self._subscriptions.aclose()
                    self._subscriptions = self._nothing_heard()

    def _nothing_heard(self) -> Any:
        """Subscriptions to nothing yet."""
        return self._redis.pubsub(ignore_subscribe_messages=False)  # pyright: ignore[reportUnknownMemberType] - redis-py leaves **kwargs open

    async def _pump(self) -> None:
        while True:
            await self._news.wait()
            if self._crowded():
                # Progress and preview of a step come within moments: a crowd gets them in one go.
                await asyncio.sleep(_GATHER_S)
            self._news.clear()
            dirty = [job_id for job_id in self._dirty if job_id in self._watches]
            self._dirty.clear()
            for first in range(0, len(dirty), _ROUND_TRIP):
                some = dirty[first : first + _ROUND_TRIP]
                try:
                    await self._read(some)
                except RedisError as error:
                    _log.warning("the logs of %d jobs cannot be read: %s", len(some), error)
                    self._dirty.update(some)
                    self._news.set()
                    await asyncio.sleep(_PAUSE_S)

    def _crowded(self) -> bool:
        watches = (self._watches.get(job_id) for job_id in self._dirty)
        return sum(len(watch.readers) for watch in watches if watch) > _CROWD

    async def _read(self, job_ids: list[str]) -> None:
        """Distribute what is new in these logs; place watches that have no position yet."""
        asked = [(job_id, self._watches[job_id]) for job_id in job_ids if job_id in self._watches]
        pipe = self._redis.pipeline(transaction=False)
        for job_id, watch in asked:
            log = keys.events(job_id)
            if watch.position is None:
                pipe.xrevrange(log, count=1)
            else:
                pipe.xrange(log, f"({watch.position}-0", count=BATCH)
        replies = cast("list[list[Entry]]", await pipe.execute())
        grown: list[tuple[str, _Watch, list[Entry]]] = []
        for (job_id, watch), batch in zip(asked, replies, strict=True):
            if watch.position is None:
                watch.position = seq_of(batch[0]) if batch else 0
                watch.placed.set()
            elif batch:
                grown.append((job_id, watch, batch))
        frames = await self._frames(
            [
                job_id
                for job_id, _, batch in grown
                if any(e[1][b"type"] == b"preview" for e in batch)
            ]
        )
        for job_id, watch, batch in grown:
            watch.position = seq_of(batch[-1])
            for item in items_of(job_id, batch, frames.get(job_id)):
                for reader in watch.readers:
                    reader.put(item)
            if len(batch) == BATCH:
                self._dirty.add(job_id)
                self._news.set()

    async def _frames(self, job_ids: list[str]) -> dict[str, tuple[int, bytes]]:
        """The newest preview of each job, with the seq of its event."""
        if not job_ids:
            return {}
        pipe = self._redis.pipeline(transaction=False)
        for job_id in job_ids:
            pipe.hmget(keys.preview(job_id), ["seq", "frame"])
        replies = cast("list[list[bytes | None]]", await pipe.execute())
        return {
            job_id: (int(seq), frame)
            for job_id, (seq, frame) in zip(job_ids, replies, strict=True)
            if seq is not None and frame is not None
        }
