"""When a request is tried again, and how long a client waits before that."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import httpx

RETRIED = frozenset({408, 429, 502, 503, 504})
_FIRST_S = 0.2
_LONGEST_S = 20.0

Sleep = Callable[[float], Awaitable[None]]


@dataclass(slots=True)
class Retries:
    """Growing pauses with jitter for one task, until `timeout_s` have passed in all."""

    timeout_s: float
    sleep: Sleep = anyio.sleep
    _began: float = field(default_factory=time.monotonic)
    _tries: int = 0

    def reset(self) -> None:
        """There was progress: begin anew."""
        self._began, self._tries = time.monotonic(), 0

    async def pause(self, answer: httpx.Response | None = None) -> bool:
        """Wait as long as the answer says, else a growing time; False where time is up."""
        pause_s = min(_LONGEST_S, _FIRST_S * 2**self._tries) * random.uniform(0.5, 1.0)
        if answer is not None:
            pause_s = max(pause_s, retry_after_s(answer))
        self._tries += 1
        if time.monotonic() - self._began + pause_s > self.timeout_s:
            return False
        await self.sleep(pause_s)
        return True


def retry_after_s(answer: httpx.Response) -> float:
    """Seconds of `Retry-After`; 0 where it does not say."""
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdecimal() else 0.0
