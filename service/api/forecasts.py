"""Forecasts of one API process: looked at together, told to followers, and put into answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from service.errors import ServerUnavailable
from service.events import snapshot
from service.forecast import MOST_WAITING, CostModel, band, simulate
from service.hub import Hub
from service.jobs import TERMINAL, Eta, Job, JobStatus
from service.queue import JobQueue
from service.stream import StreamItem
from service.work import Load, Loaded, Submission

logger = logging.getLogger(__name__)

_FRESH_S: Final = 0.25  # how old an outlook may be that answers a request
_TELL_S: Final = 1.0
_CHANGED: Final = 0.1  # of the likely seconds, before followers are told again


@dataclass(frozen=True, slots=True)
class Outlook:
    """How things stood at a moment of `time.monotonic`."""

    at: float
    positions: Mapping[str, int] = field(default_factory=dict[str, int])
    ends: Mapping[str, float] = field(default_factory=dict[str, float])  # seconds from then
    errors: tuple[float, ...] = ()
    whole: bool = True  # it knows every job that waited then

    def eta(self, job_id: str) -> Eta | None:
        """When the job will end; None where that is not known."""
        if job_id not in self.ends:
            return None
        left = self.ends[job_id] - (time.monotonic() - self.at)
        return band(max(0.05, left), self.errors)


class Forecasts:
    """Makes an outlook when one is asked for, at most every quarter of a second."""

    def __init__(self, queue: JobQueue, hub: Hub) -> None:
        self._queue = queue
        self._hub = hub
        self._last = Outlook(at=float("-inf"))
        self._lock = asyncio.Lock()
        self._told: dict[str, tuple[int | None, float]] = {}

    async def outlook(self, job_id: str | None = None) -> Outlook:
        """A fresh outlook, and one that knows the job if it is named and lives.

        Raises ServerUnavailable.
        """
        async with self._lock:
            last = self._last
            stale = time.monotonic() - last.at > _FRESH_S
            unknown = job_id is not None and not (job_id in last.positions or job_id in last.ends)
            # Of a longer queue than is looked at, a second look would tell no more of its end.
            if stale or (unknown and last.whole):
                self._last = await self._look()
            return self._last

    async def of(self, job: Job) -> tuple[int | None, Eta | None]:
        """The job's position while it waits, and when it will end. Raises ServerUnavailable."""
        if job.status in TERMINAL:
            return None, None
        outlook = await self.outlook(job.id)
        position = outlook.positions.get(job.id) if job.status is JobStatus.QUEUED else None
        return position, outlook.eta(job.id)

    async def promise(self, job: Job) -> None:
        """Remember what is predicted for a job just admitted, to be judged when it has ended."""
        _, eta = await self.of(job)
        if eta is not None:
            await self._queue.predict(job.id, eta.likely_s)

    async def estimate(self, asked: Submission) -> tuple[int, Eta | None]:
        """Position and end of a job that was submitted now. Raises ServerUnavailable."""
        load = await self._queue.load(MOST_WAITING)
        size = asked.source.width * asked.source.height
        mine = Loaded("", asked.pace_key, size, "", 0.0)
        joined = replace(load, waiting=[*load.waiting, mine], count=load.count + 1)
        ends, errors = await self._simulate(joined)
        return load.count, band(ends[""], errors) if "" in ends else None

    async def tell(self) -> None:
        """Tell followers what has changed, once a second, for ever."""
        while True:
            await asyncio.sleep(_TELL_S)
            jobs = list(self._hub.jobs)
            self._told = {job_id: self._told[job_id] for job_id in jobs if job_id in self._told}
            if not jobs:
                continue
            try:
                outlook = await self.outlook()
            except ServerUnavailable as error:
                logger.info("no outlook: %s", error)
                continue
            for job_id in jobs:
                self._tell_one(outlook, job_id)

    def _tell_one(self, outlook: Outlook, job_id: str) -> None:
        eta, position = outlook.eta(job_id), outlook.positions.get(job_id)
        if eta is None and position is None:
            return
        end = time.monotonic() + (eta.likely_s if eta else 0.0)
        before = self._told.get(job_id)
        moved = before is None or abs(before[1] - end) > _CHANGED * (eta.likely_s if eta else 0.0)
        if before is not None and before[0] == position and not moved:
            return
        self._told[job_id] = (position, end)
        fields = {"position": position, **(eta.model_dump() if eta else {})}
        self._hub.tell(job_id, StreamItem(snapshot("eta", fields, job_id=job_id)))

    async def _look(self) -> Outlook:
        at = time.monotonic()
        load = await self._queue.load(MOST_WAITING)
        ends, errors = await self._simulate(load)
        positions = {job.job_id: place for place, job in enumerate(load.waiting)}
        return Outlook(at, positions, ends, errors, load.count <= len(load.waiting))

    async def _simulate(self, load: Load) -> tuple[dict[str, float], tuple[float, ...]]:
        model = CostModel(await self._queue.costs())
        workers = await self._queue.workers()
        slots = [int(beat.get("slots", 1)) for beat in workers.values() if beat.get("ready")]
        return simulate(load, model, slots), tuple(await self._queue.accuracy())
