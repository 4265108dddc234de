"""Thousands of streams in one process, as cheaply as can be: sockets and a search for time stamps.

Every event carries the moment it was written, by the clock of Redis; all runs on one machine, so
what has passed since then is the delay.
"""

from __future__ import annotations

import asyncio
import base64
import os
import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final

_AT: Final = re.compile(rb'"seq": (\d+), "job_id": "[^"]+", "at": ([0-9.]+)')
_TAIL: Final = 160  # bytes kept, in which an event that arrives in two parts is found whole


class Listener(asyncio.Protocol):
    """One open stream; notes the delay of each event that it sees for the first time."""

    def __init__(self, request: bytes, delays: list[float], opened: asyncio.Event) -> None:
        self._request = request
        self._delays = delays
        self.opened = opened
        self._tail = b""
        self._seen = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the stream."""
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Look for events."""
        now = time.time()
        self.opened.set()
        text = self._tail + data
        for seq, at in _AT.findall(text):
            if int(seq) > self._seen:
                self._seen = int(seq)
                self._delays.append(now - float(at))
        self._tail = text[-_TAIL:]


def _sse(job_id: str, after: int) -> bytes:
    return (
        f"GET /restore/{job_id}/events?starting_after={after} HTTP/1.1\r\nhost: test\r\n\r\n"
    ).encode()


def _websocket(job_id: str, after: int) -> bytes:
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET /restore/{job_id}/progress?starting_after={after} HTTP/1.1\r\nhost: test\r\n"
        "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n"
        f"sec-websocket-key: {key}\r\n\r\n"
    ).encode()


KINDS: Final = {"sse": _sse, "websocket": _websocket}
_AT_ONCE: Final = 50  # connections being opened


@asynccontextmanager
async def listening(
    port: int, job_ids: Sequence[str], count: int, after: int
) -> AsyncGenerator[dict[str, list[float]]]:
    """`count` streams of each kind on jobs in turn; their delays in seconds, by kind."""
    loop = asyncio.get_running_loop()
    delays: dict[str, list[float]] = {kind: [] for kind in KINDS}
    transports: list[asyncio.BaseTransport] = []
    room = asyncio.Semaphore(_AT_ONCE)

    async def open_one(kind: str, job_id: str) -> None:
        async with room:
            request, opened = KINDS[kind](job_id, after), asyncio.Event()
            made = lambda: Listener(request, delays[kind], opened)  # noqa: E731
            transport, _ = await loop.create_connection(made, "127.0.0.1", port)
            transports.append(transport)
            await opened.wait()

    async with asyncio.TaskGroup() as group:
        for index in range(count):
            for kind in KINDS:
                group.create_task(open_one(kind, job_ids[index % len(job_ids)]))
    try:
        yield delays
    finally:
        for transport in transports:
            assert isinstance(transport, asyncio.Transport)
            transport.abort()
