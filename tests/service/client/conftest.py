"""A live service with a hand-driven worker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from service.client import AsyncClient
from service.queue import JobQueue
from service.work import Lease
from tests.conftest import WaitUntil
from tests.service.api.conftest import Live, Worker, photo, serve, worker

__all__ = ["photo", "worker"]

Claimed = Callable[[], Awaitable[Lease]]


@pytest.fixture
async def live(settings: Any) -> AsyncIterator[Live]:
    """A server in front of the private Redis."""
    async with serve(settings) as made:
        yield made


@pytest.fixture
async def slept() -> list[float]:
    """The pauses that the client made; they take no time."""
    return []


@pytest.fixture
async def client(live: Live, slept: list[float]) -> AsyncIterator[AsyncClient]:
    """A client whose pauses are short."""

    async def note(seconds: float) -> None:
        slept.append(seconds)
        await asyncio.wait({asyncio.create_task(asyncio.Event().wait())}, timeout=0.01)

    async with AsyncClient(f"http://{live.address}", sleep=note) as made:
        yield made


@pytest.fixture
def claimed(worker: Worker, queue: JobQueue, wait_until: WaitUntil) -> Claimed:
    """`await claimed()`: the next job, as soon as it is there."""

    async def take() -> Lease:
        async def waits() -> bool:
            return (await queue.depth())["normal"] > 0

        await wait_until(waits)
        return await worker.claim()

    return take
