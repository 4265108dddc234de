"""Ending tasks for certain, and running some of them around a block."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final

_log = logging.getLogger(__name__)
_AGAIN_S: Final = 0.2


async def end(*tasks: asyncio.Task[None]) -> None:
    """Cancel until it takes: redis-py waits by `asyncio.wait_for`, whose 3.11 may swallow one."""
    while left := [task for task in tasks if not task.done()]:
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=_AGAIN_S)


@asynccontextmanager
async def running(*work: Coroutine[Any, Any, None]) -> AsyncGenerator[None]:
    """Tasks for as long as the block lasts."""
    tasks = [asyncio.create_task(part, name=part.__qualname__) for part in work]
    for task in tasks:
        task.add_done_callback(_tell)
    try:
        yield
    finally:
        await end(*tasks)


def _tell(task: asyncio.Task[None]) -> None:
    """Work that is to last must not die unheard."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        _log.critical("%s ended by a fault", task.get_name(), exc_info=error)
