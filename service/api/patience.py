"""Giving up on clients that take nothing, at the price of one timer for a whole stream."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import anyio


class Patience:
    """`with patience:` around each send, all of them inside `with patience.watching():`.

    A send that takes longer than `limit_s` is cancelled, at the latest after twice that time, and
    `watching` raises TimeoutError. A timer for each send would cost as much as the send.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._since: float | None = None
        self._loop = asyncio.get_running_loop()
        self._scope = anyio.CancelScope()
        self._timer: asyncio.TimerHandle | None = None

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

    @contextmanager
    def watching(self) -> Generator[None]:
        """Looks at the sends of the block. Raises TimeoutError."""
        self._look()
        try:
            with self._scope:
                yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
        if self._scope.cancelled_caught:
            raise TimeoutError(f"nothing was taken for {self._limit_s:g} s")

    def _look(self) -> None:
        now = self._loop.time()
        if self._since is not None and now - self._since >= self._limit_s:
            self._scope.cancel()
            return
        self._timer = self._loop.call_later(self._limit_s, self._look)
