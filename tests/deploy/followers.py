"""Clients that follow a job through a balancer and come back whenever a connection breaks."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus

from service.client import AsyncClient
from service.client.retries import Retries

Seen = tuple[int, str]  # number and type of an event

KINDS = ("sse", "websocket")
_BROKEN = (ConnectionClosed, InvalidMessage, InvalidStatus, OSError, TimeoutError)
_END_S = 60.0


@asynccontextmanager
async def following(address: str, kind: str, job_id: str) -> AsyncGenerator[list[Seen]]:
    """What a client of this kind sees of a job, as it comes; all of it when the block has ended."""
    seen: list[Seen] = []
    follow = {"sse": _by_sse, "websocket": _by_websocket}[kind]
    task = asyncio.create_task(follow(address, job_id, seen))
    try:
        yield seen
        await asyncio.wait_for(task, _END_S)
    finally:
        task.cancel()


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


def missed(log: Sequence[Seen], seen: Sequence[Seen]) -> int:
    """Events that a follower should have seen; of previews only the newest is kept for it."""
    return len({event for event in log if event[1] != "preview"} - set(seen))


def doubled(seen: Sequence[Seen]) -> int:
    """Events that a follower saw again."""
    return len(seen) - len(set(seen))
