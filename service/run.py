"""One attempt at one job, as the worker sees it: what the executor says goes to the queue."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from service.connection import unavailable_when_away
from service.errors import ServerUnavailable
from service.events import PreviewEvent, ProgressEvent
from service.jobs import ErrorInfo, OutputInfo
from service.messages import (
    Canceled,
    Ending,
    Failed,
    Finished,
    Preview,
    Progress,
    RunMessage,
    Started,
)
from service.queue import JobQueue
from service.work import Cost, Lease

_log = logging.getLogger(__name__)

_FIRST_RETRY_S = 0.05
_LAST_RETRY_S = 2.0

T = TypeVar("T")


class Run:
    """A leased job between its claim and its end. Nothing is published once it is fenced."""

    def __init__(self, number: int, lease: Lease, queue: JobQueue, fence_s: float) -> None:
        self.number = number
        self.lease = lease
        self.task: asyncio.Task[None] | None = None
        self.renewed_at = time.monotonic()
        self.begun = False  # the executor has it
        self.cancel_asked = False
        self.answered = False  # the executor has said how it ended
        self.closing = False  # its end is on the way to the queue: no heartbeat any more
        self._queue = queue
        self._fence_s = fence_s
        self._outbox: deque[RunMessage] = deque()
        self._news = asyncio.Event()

    @property
    def retried(self) -> bool:
        """An earlier attempt was lost with its worker or executor."""
        return self.lease.attempt > 1

    @property
    def fenced(self) -> bool:
        """The lease has not been renewed for so long that another worker may have the job soon."""
        return time.monotonic() - self.renewed_at > self._fence_s

    def deliver(self, message: RunMessage) -> None:
        """Take what the executor says; a preview replaces one that has not left yet."""
        if isinstance(message, Preview):
            kept = [waiting for waiting in self._outbox if not isinstance(waiting, Preview)]
            self._outbox = deque(kept)
        self.answered = self.answered or isinstance(message, Ending)
        self._outbox.append(message)
        self._news.set()

    async def forward(self, model: str, fingerprint: str) -> bool:
        """Publish until the run has ended; False as soon as the lease turns out to be lost."""
        while True:
            while not self._outbox:
                self._news.clear()
                await self._news.wait()
            message = self._outbox.popleft()
            if not await self.publish(message, model, fingerprint):
                return False
            if isinstance(message, Ending):
                return True

    async def publish(self, message: RunMessage, model: str = "", fingerprint: str = "") -> bool:
        """Write one message to the queue; False if the lease is lost."""
        # Out of the heartbeat first: a renewal that crosses the end would read as a lost lease.
        self.closing = self.closing or isinstance(message, Ending)
        return await self.insist(self._call(message, model, fingerprint)) or False

    def _call(
        self, message: RunMessage, model: str, fingerprint: str
    ) -> Callable[[], Awaitable[bool]]:
        queue, lease = self._queue, self.lease
        match message:
            case Started(_, resolved):
                return lambda: queue.start(lease, resolved, model, fingerprint)
            case Progress():
                event = _progress_event(message)
                return lambda: queue.emit(lease, event)
            case Preview(_, step, steps, width, height, content_type, image):
                shown = PreviewEvent(step, steps, width, height, content_type)
                return lambda: queue.emit(lease, shown, image)
            case Finished():
                output, cost = _output_info(message), Cost(message.cost_s, message.steps)
                return lambda: queue.succeed(lease, output, message.image, cost)
            case Failed(_, code, text, retryable):
                error = ErrorInfo(code=code, message=text, retryable=retryable)
                return lambda: queue.fail(lease, error)
            case Canceled():
                return lambda: queue.canceled(lease)

    async def insist(self, call: Callable[[], Awaitable[T]]) -> T | None:
        """Repeat `call` while Redis is away, with growing pauses; None once the run is fenced."""
        pause_s = _FIRST_RETRY_S
        while not self.fenced:
            try:
                with unavailable_when_away():
                    return await call()
            except ServerUnavailable as error:
                _log.warning("cannot publish, will retry: %s", error)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_RETRY_S)
        return None


def may_begin(run: Run, runs: Iterable[Run]) -> bool:
    """Whether it is `run`'s turn: runs begin in the order of their claims.

    A job whose earlier attempt was lost runs alone. If it is the one that kills executors, it is
    caught without costing its neighbors more than one attempt.
    """
    runs = list(runs)
    begun = [other for other in runs if other.begun]
    first_waiting = next((other for other in runs if not other.begun), None)
    if first_waiting is not run:
        return False
    return not begun or not (run.retried or any(other.retried for other in begun))


def _progress_event(message: Progress) -> ProgressEvent:
    return ProgressEvent(
        step=message.step,
        steps=message.steps,
        stage=message.stage,
        timestep=message.timestep,
        reference_variance=message.reference_variance,
        adaptive_factor=message.adaptive_factor,
    )


def _output_info(message: Finished) -> OutputInfo:
    return OutputInfo(
        width=message.width,
        height=message.height,
        content_type=message.content_type,
        bytes=len(message.image),
        sha256=message.sha256,
    )
