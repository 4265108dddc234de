"""The worker: leases jobs from the queue into the free slots of its executor, and never hopes.

It loads no model itself, so a busy or hung one cannot stop the heartbeat that holds the leases.
Claims happen only while the executor is ready and has a slot; a dead or hung executor gives its
jobs back and is started again; a worker that cannot reach Redis drops what it may have lost.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from service import logs, tasks
from service.child import ExecutorChild
from service.connection import connect, unavailable_when_away
from service.errors import ServerUnavailable
from service.messages import (
    Begin,
    Cancel,
    Canceled,
    Failed,
    FromExecutor,
    LoadFailed,
    Ready,
    Stepped,
)
from service.queue import JobQueue
from service.results import BlobKind, BlobStore, blob_store
from service.run import Run, may_begin
from service.settings import Settings
from service.work import Lease, LeaseState

_log = logging.getLogger(__name__)

DRAIN_S = 30.0  # after SIGTERM, time for running jobs to end
_FENCE = 0.8  # of a lease: later results are dropped, another worker may take over at 1.0
_BEATS_PER_LEASE = 3
_IDLE_POLL_S = 1.0  # how often an idle worker looks for expired leases of others
_REDIS_PAUSE_S = 0.5
_FIRST_PAUSE_S = 0.2  # before a lost executor is started again, doubled each time
_LAST_PAUSE_S = 30.0
_POLITE_S = 0.02
_LAST_CLAIM_S = 5.0  # a claim in flight when we stop; cut off later, its lease would just expire
_LOAD_TIMEOUT_S = 1800.0  # building engines for a new GPU takes many minutes


class Worker:
    """One executor and the jobs leased to it; `run` returns after `stop` and the drain."""

    def __init__(
        self,
        settings: Settings,
        queue: JobQueue,
        blobs: BlobStore,
        worker_id: str,
        drain_s: float = DRAIN_S,
    ) -> None:
        self.worker_id = worker_id
        self.runs: dict[int, Run] = {}
        self.child: ExecutorChild | None = None
        self.ready: Ready | None = None
        self.problem: str | None = "the model is loading"
        self._settings = settings
        self._queue = queue
        self._blobs = blobs
        self._drain_s = drain_s
        self._fence_s = _FENCE * settings.lease_s
        self._numbers = itertools.count(1)
        self._stop = asyncio.Event()
        self._leave_now = False
        self._changed = asyncio.Event()
        self._beat_now = asyncio.Event()
        self._heard_at = time.monotonic()
        self._last_words: str | None = None
        self._restart_pause_s = _FIRST_PAUSE_S
        self._tasks: set[asyncio.Task[None]] = set()
        self._broken_by: BaseException | None = None

    def stop(self) -> None:
        """Finish what runs and leave; asked a second time, give it back and leave."""
        self._leave_now = self._stop.is_set()
        self._stop.set()
        self._changed.set()
        self._beat_now.set()

    async def run(self) -> None:
        """Serve until stopped; raises what broke the worker itself, after giving its jobs back."""
        claims = self._spawn(self._claim_jobs())
        for part in (self._keep_executor, self._watch_executor, self._heartbeat):
            self._spawn(part())
        try:
            await self._stop.wait()
            await asyncio.wait((claims,), timeout=_LAST_CLAIM_S)
            await self._drain()
        finally:
            while self._tasks:
                await tasks.end(*self._tasks)
                await asyncio.sleep(0)  # their callbacks take them off the list
            await self._say_goodbye()
        if self._broken_by is not None:
            raise self._broken_by

    async def _say_goodbye(self) -> None:
        """The last beat: not ready any more."""
        with suppress(ServerUnavailable, TimeoutError), unavailable_when_away():
            async with asyncio.timeout(_LAST_CLAIM_S):
                await self._queue.beat(self.worker_id, self._state())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._despawn)
        return task

    def _despawn(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._broken_by = self._broken_by or error
            self.stop()
            self.stop()  # at once: half a worker must not go on

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    # Jobs: claim, begin, forward, give back.

    def _free_slots(self) -> int:
        if self.ready is None or any(run.retried for run in self.runs.values()):
            return 0  # a retried job runs alone (see may_begin), so nothing should wait behind it
        return self._settings.slots - len(self.runs)

    async def _claim_jobs(self) -> None:
        while not self._stop.is_set():
            await self._until(lambda: self._stop.is_set() or self._free_slots() > 0)
            if self._stop.is_set():
                return
            try:
                with unavailable_when_away():
                    asked_at = time.monotonic()
                    leases = await self._queue.claim(self.worker_id, self._free_slots())
                    for lease in leases:
                        if time.monotonic() - asked_at < self._fence_s:
                            self._take(lease, asked_at)
                        else:  # the answer took so long that the lease may have run out
                            await self._queue.release(lease, count_attempt=False)
                    if not leases:
                        await self._wait_for_work()
            except ServerUnavailable as error:
                _log.warning("cannot claim jobs: %s", error)
                await asyncio.sleep(_REDIS_PAUSE_S)

    async def _wait_for_work(self) -> None:
        poll_s = min(_IDLE_POLL_S, self._settings.lease_s / _BEATS_PER_LEASE)
        await _first(self._queue.wait_for_work(poll_s), self._stop, None)
        # Every worker hears the bell; who holds less goes first.
        await asyncio.sleep(_POLITE_S * len(self.runs))

    def _take(self, lease: Lease, asked_at: float) -> None:
        run = Run(next(self._numbers), lease, self._queue, self._fence_s)
        run.renewed_at = asked_at
        self.runs[run.number] = run
        run.task = self._spawn(self._work(run))

    async def _work(self, run: Run) -> None:
        with logs.job_context(run.lease.job_id):
            try:
                image = await run.insist(lambda: self._blobs.get(BlobKind.SOURCE, run.lease.job_id))
                await self._until(lambda: run.cancel_asked or self._may_begin(run))
                if run.cancel_asked:
                    await run.publish(Canceled(run.number))
                elif image is None:
                    gone = Failed(run.number, "source_lost", "the upload is gone", retryable=True)
                    await run.publish(gone)
                else:
                    await self._execute(run, image)
            finally:
                self.runs.pop(run.number, None)
                self._changed.set()

    def _may_begin(self, run: Run) -> bool:
        return self.ready is not None and may_begin(run, self.runs.values())

    async def _execute(self, run: Run, image: bytes) -> None:
        child, ready, lease = self.child, self.ready, run.lease
        assert child is not None, "checked by _may_begin"
        assert ready is not None, "checked by _may_begin"
        run.begun = True
        self._changed.set()  # the next in line may begin
        self._heard_at = time.monotonic()
        _log.info("attempt %d begins", lease.attempt)
        await child.send(Begin(run.number, lease.job_id, image, lease.options))
        if await run.forward(ready.model, ready.fingerprint):
            _log.info("attempt %d has ended", lease.attempt)
            self._restart_pause_s = _FIRST_PAUSE_S
        else:
            _log.warning("attempt %d was taken away; its results are dropped", lease.attempt)
            await child.send(Cancel(run.number))

    async def _give_back(self, run: Run, *, count_attempt: bool) -> None:
        await self._abandon(run)
        await run.insist(lambda: self._queue.release(run.lease, count_attempt=count_attempt))

    async def _abandon(self, run: Run) -> None:
        """Forget a run without another word to the queue."""
        if run.task is not None:
            await tasks.end(run.task)
        if run.begun and self.child is not None:
            await self.child.send(Cancel(run.number))

    async def _drain(self) -> None:
        _log.info("stopping; %d runs have %.0f s to end", len(self.runs), self._drain_s)
        for run in list(self.runs.values()):
            if not run.begun:
                await self._give_back(run, count_attempt=False)
        with suppress(TimeoutError):
            async with asyncio.timeout(self._drain_s):
                await self._until(lambda: not self.runs or self._leave_now)
        for run in list(self.runs.values()):
            await self._give_back(run, count_attempt=False)

    # The executor: start, listen, watch, restart.

    async def _keep_executor(self) -> None:
        while True:
            self._heard_at, self._last_words = time.monotonic(), None
            child = ExecutorChild(self._settings)
            try:
                self.child = child
                async for message in child.messages():
                    self._hear(message)
            finally:
                self.child, self.ready = None, None
                await child.close()
            self._lose_executor(child.exitcode)
            await asyncio.sleep(self._restart_pause_s)
            self._restart_pause_s = min(2 * self._restart_pause_s, _LAST_PAUSE_S)

    def _hear(self, message: FromExecutor) -> None:
        self._heard_at = time.monotonic()
        match message:
            case Ready():
                _log.info("ready: model %s (%s)", message.model, message.fingerprint)
                self.ready, self.problem = message, None
                self._changed.set()
                self._beat_now.set()
            case LoadFailed(reason):
                self._last_words = reason
            case Stepped(batch, seconds):
                _log.debug("a step of %d runs took %.3f s", batch, seconds)
            case _:
                run = self.runs.get(message.run)
                if run is not None:
                    run.deliver(message)

    def _lose_executor(self, exitcode: int | None) -> None:
        """Its jobs go back with the attempt counted, except those whose end it had told."""
        self.problem = self._last_words or f"the executor ended with status {exitcode}"
        _log.error("%s; next start in %.1f s", self.problem, self._restart_pause_s)
        self._beat_now.set()
        for run in list(self.runs.values()):
            if not run.answered:
                self._spawn(self._give_back(run, count_attempt=run.begun))

    async def _watch_executor(self) -> None:
        """Kill an executor that has been silent for too long while it should work."""
        limit_s = self._settings.step_timeout_s
        while True:
            await asyncio.sleep(min(1.0, limit_s / 10))
            silent_s = time.monotonic() - self._heard_at
            loading = self.ready is None
            working = any(run.begun and not run.answered for run in self.runs.values())
            hung = silent_s > (_LOAD_TIMEOUT_S if loading else limit_s) and (loading or working)
            if hung and self.child is not None:
                _log.error("no word from the executor for %.1f s; killing it", silent_s)
                self._heard_at = time.monotonic()
                self.child.kill()

    # The heartbeat: leases, cancels, fence, readiness.

    async def _heartbeat(self) -> None:
        beat_s = self._settings.lease_s / _BEATS_PER_LEASE
        beaten_at = float("-inf")
        while True:
            if self._beat_now.is_set():
                self._beat_now.clear()
                beaten_at = float("-inf")
            try:
                with unavailable_when_away():
                    async with asyncio.timeout(beat_s):
                        await self._renew()
                        if time.monotonic() - beaten_at >= beat_s:
                            await self._queue.beat(self.worker_id, self._state())
                            beaten_at = time.monotonic()
            except (ServerUnavailable, TimeoutError) as error:
                _log.warning("heartbeat failed, will retry: %s", error or "no answer")
            for run in list(self.runs.values()):
                if run.fenced and not run.closing:
                    _log.error("job %s may be lost; its results are dropped", run.lease.job_id)
                    self._spawn(self._abandon(run))
            await self._until_beat(beat_s)

    async def _until_beat(self, timeout_s: float) -> None:
        """Until it is time for a heartbeat, or a job that runs here may have to end."""
        try:
            with unavailable_when_away():
                # A Redis that hangs says nothing in time, and leases go on to run out.
                await _first(self._queue.wait_for_nudge(timeout_s), self._beat_now, timeout_s)
        except ServerUnavailable:
            await asyncio.sleep(_REDIS_PAUSE_S)

    async def _renew(self) -> None:
        held = {run.lease.job_id: run for run in self.runs.values() if not run.closing}
        asked_at = time.monotonic()
        states = await self._queue.renew(self.worker_id, [run.lease for run in held.values()])
        for job_id, state in states.items():
            run = held[job_id]
            if run.closing or run.number not in self.runs:
                continue  # it ended while we asked
            if state is LeaseState.LOST:
                _log.warning("job %s was taken away; its results are dropped", job_id)
                self._spawn(self._abandon(run))
                continue
            run.renewed_at = asked_at
            if state is LeaseState.CANCEL and not run.cancel_asked:
                run.cancel_asked = True
                self._changed.set()
                if run.begun and self.child is not None:
                    await self.child.send(Cancel(run.number))

    def _state(self) -> dict[str, object]:
        return {
            "ready": self.ready is not None and not self._stop.is_set(),
            "slots": self._settings.slots,
            "running": len(self.runs),
            "model": self.ready.model if self.ready else self._settings.model,
            "fingerprint": self.ready.fingerprint if self.ready else None,
            "presets": sorted(self.ready.presets) if self.ready else [],
            "problem": self.problem,
        }


async def _first(
    news: Coroutine[Any, Any, None], event: asyncio.Event, timeout_s: float | None
) -> None:
    """Until there is news, the event is set or time is up; raises what the news raise."""
    heard, happened = asyncio.create_task(news), asyncio.create_task(event.wait())
    try:
        await asyncio.wait(
            (heard, happened), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if heard.done():
            heard.result()
    finally:
        happened.cancel()
        await tasks.end(heard)


async def _serve(settings: Settings) -> None:
    redis = connect(settings)
    worker_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"
    blobs = blob_store(redis, settings)
    worker = Worker(settings, JobQueue(redis, settings, blobs), blobs, worker_id)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, worker.stop)
    try:
        await worker.run()
    finally:
        await redis.aclose()


def main(settings: Settings) -> None:
    """Run one worker process until SIGTERM; raises ValueError when no Redis address is set."""
    logs.configure(settings.log_level)
    asyncio.run(_serve(settings))
