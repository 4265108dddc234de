"""Clients that follow a job through a balancer and come back whenever a connection breaks."""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from loadtests.visits import Seen
from service.client import AsyncClient
from service.client.retries import Retries

KINDS = ("sse", "websocket")
_BROKEN = (ConnectionClosed, InvalidMessage, InvalidStatus, OSError, TimeoutError)
_END_S = 60.0


@asynccontextmanager
async def following(address: str, kind: str, job_id: str) -> AsyncGenerator[list[Seen]]:
    """What a client of this kind sees of a job, as it comes; all of it when the block has ended."""
    seen: list[Seen] = []
    follow = {"sse": _by_sse, "websocket": _by_websocket, "eventsource": _by_event_source}[kind]
    async with _to_its_end(follow(address, job_id, seen)):
        yield seen


@asynccontextmanager
async def roaming(
    addresses: Sequence[str], job_id: str, quiet_s: float = 30.0
) -> AsyncGenerator[list[Seen]]:
    """As `following`, by what browsers do: resume by the header `Last-Event-ID` until nothing is
    left; each time at the next address, and whenever a stream has been quiet for too long.
    """
    seen: list[Seen] = []
    async with _to_its_end(_by_event_source(addresses, job_id, seen, quiet_s)):
        yield seen


@asynccontextmanager
async def _to_its_end(follow: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    task = asyncio.create_task(follow)
    try:
        yield
        await asyncio.wait_for(task, _END_S)
    finally:
        task.cancel()


async def _by_event_source(
    addresses: str | Sequence[str], job_id: str, seen: list[Seen], quiet_s: float = 30.0
) -> None:
    retries = Retries(_END_S)
    for address in itertools.cycle([addresses] if isinstance(addresses, str) else addresses):
        after = {"last-event-id": str(seen[-1][0])} if seen else {}
        url = f"{address}/restore/{job_id}/events"
        try:
            async with (
                httpx.AsyncClient(timeout=quiet_s) as client,
                client.stream("GET", url, headers=after) as answer,
            ):
                if answer.status_code == HTTPStatus.NO_CONTENT:
                    return
                if answer.is_success:
                    async for line in answer.aiter_lines():
                        if line.startswith("data: "):
                            retries.reset()
                            _note(seen, json.loads(line.removeprefix("data: ")))
        except httpx.TransportError:
            pass
        await retries.pause()


async def _by_sse(address: str, job_id: str, seen: list[Seen]) -> None:
    async with AsyncClient(address) as client:
        async for event in client.follow(job_id):
            _note(seen, {"type": event.type, **event.data})


async def _by_websocket(address: str, job_id: str, seen: list[Seen]) -> None:
    url = f"{address.replace('http', 'ws')}/restore/{job_id}/progress"
    retries = Retries(_END_S)
    while True:
        after = seen[-1][0] if seen else 0
        try:
            async with connect(f"{url}?starting_after={after}") as socket:
                async for message in socket:
                    retries.reset()
                    _note(seen, _event(message))
            return  # closed with 1000: the job has ended
        except _BROKEN:
            await retries.pause()


def _event(message: str | bytes) -> dict[str, Any]:
    """What a message tells; of a preview's frame the facts, when a JPEG is behind them."""
    if isinstance(message, str):
        return json.loads(message)
    kind, length = struct.unpack(">II", message[:8])
    assert (kind, message[8 + length :][:2]) == (4, b"\xff\xd8")
    return {"type": "preview", **json.loads(message[8 : 8 + length])}


def _note(seen: list[Seen], event: dict[str, Any]) -> None:
    if "seq" in event:
        seen.append((event["seq"], event["type"]))
