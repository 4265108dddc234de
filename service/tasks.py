"""Ending tasks for certain, and running some of them around a block."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

_AGAIN_S: Final = 0.2


async def end(task: asyncio.Task[None]) -> None:
    """Cancel until it takes: redis-py waits by `asyncio.wait_for`, whose 3.11 may swallow one."""
    while not task.done():
        task.cancel()
        await asyncio.wait((task,), timeout=_AGAIN_S)


@asynccontextmanager
async def running(*work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Tasks for as long as the block lasts."""
    tasks = [asyncio.create_task(part) for part in work]
    try:
        yield
    finally:
        for task in tasks:
            await end(task)
