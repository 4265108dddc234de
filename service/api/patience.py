"""Giving up on clients that take nothing or have left, at the price of one timer and one task."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import anyio
from starlette.types import Receive

from service import tasks


class Patience:
    """`async with` around a whole stream, and inside it `with` around each send.

    A send that takes longer than `limit_s` is cancelled, at the latest after twice that time, and
    the outer block raises TimeoutError; a timer for each send would cost as much as the send. A
    client that leaves, which `receive` says, ends the outer block quietly: `left` is set.
    """

    def __init__(self, limit_s: float, receive: Receive) -> None:
        self.left = False
        self._limit_s = limit_s
        self._receive = receive
        self._since: float | None = None
        self._loop = asyncio.get_running_loop()
        # Unlike a plain cancel it is repeated until it takes; redis-py may swallow one.
        self._block = anyio.CancelScope()

    def __enter__(self) -> Self:
        self._since = self._loop.time()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._since = None

    async def __aenter__(self) -> Self:
        self._block.__enter__()
        self._timer: asyncio.TimerHandle | None = None
        self._look()
        self._listener = asyncio.create_task(self._until_left())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> bool:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        swallowed = self._block.__exit__(kind, error, at)
        await tasks.end(self._listener)
        if self._block.cancelled_caught and not self.left:
            raise TimeoutError(f"nothing was taken for {self._limit_s:g} s")
        return bool(swallowed)

    def _look(self) -> None:
        now = self._loop.time()
        if self._since is not None and now - self._since >= self._limit_s:
            self._block.cancel()
        else:
            self._timer = self._loop.call_later(self._limit_s, self._look)

    async def _until_left(self) -> None:
        # Nothing that a client says means anything here.
        while not (await self._receive())["type"].endswith(".disconnect"):
            pass
        if self._timer is not None:
            self.left = True
            self._block.cancel()
