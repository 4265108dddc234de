"""When a job will end: what finished jobs have cost, and a simulation of those before it.

A worker steps the jobs that it holds together: one round takes each of them one step further and
lasts as long as their steps take one after the other, as every executor measures them. So the
simulation knows of each job its steps and the seconds of one step, and plays the rounds.

Costs are those of a worker that is busy alone. Workers that share a machine slow one another down;
how much, finished jobs have told (`Load.crowding`). As it slows all of them alike, the rounds are
played by a clock that runs so much slower, and its times are stretched.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low
from typing import Final

from service.jobs import Eta
from service.work import SIZED, Load, Loaded

MOST_WAITING: Final = 500  # simulated one by one; those behind them are as the mean of these
_FEW: Final = 10  # predictions judged, before their errors say how wide the band is
_UNPROVEN: Final = 0.5  # half width of the band until then, as a share
_LEAST: Final = 0.1
_OF_A_STEP: Final = 0.9  # at most, while its end is not told


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds of the executor's time against pixels, and steps, of one kind of jobs."""

    intercept_s: float
    slope_s: float
    steps: float

    @classmethod
    def of(cls, sums: Sequence[float]) -> Line:
        """The least-squares line through decaying sums: n, x, y, xx, xy, steps."""
        n, x, y, xx, xy, steps = sums
        spread = xx / n - (x / n) ** 2
        # With pictures of one size only, what they cost is all that is known.
        if spread <= 1e-6 * (x / n) ** 2:
            return cls(0.0, y / x, steps / n)
        slope = max(0.0, (xy / n - x * y / n**2) / spread)
        intercept = y / n - slope * x / n
        if intercept < 0:
            return cls(0.0, y / x, steps / n)
        return cls(intercept, slope, steps / n)

    def at(self, costs: Sequence[float]) -> Line:
        """The line of jobs of this kind that are of about one size, by what the last ones cost.

        It is level at their median, the lower one of two: the first job of a size that a process
        meets costs more, and says nothing of the next.
        """
        return Line(median_low(costs), 0.0, self.steps)

    def seconds(self, pixels: int) -> float:
        """What a job with a picture of so many pixels costs."""
        return self.intercept_s + self.slope_s * pixels


class CostModel:
    """What jobs cost, by kind and size class: sums for a line of the one, the last costs of both.

    A class not seen yet lies on the line of its kind, a new kind on that of all others.
    """

    def __init__(self, costs: Mapping[str, Sequence[float]]) -> None:
        kinds = {kind: sums for kind, sums in costs.items() if SIZED not in kind}
        self._lines = {kind: Line.of(sums) for kind, sums in kinds.items() if sums[1] > 0}
        self._sized = {kind: last for kind, last in costs.items() if SIZED in kind}
        every = [sum(column) for column in zip(*kinds.values(), strict=True)]
        self._any = Line.of(every) if every and every[1] > 0 else None

    def line(self, pace_key: str) -> Line | None:
        """The line of a kind; None while no job has been finished at all."""
        kind, _, _ = pace_key.partition(SIZED)
        line, last = self._lines.get(kind, self._any), self._sized.get(pace_key)
        return line.at(last) if line and last else line


@dataclass(slots=True)
class _Job:
    job_id: str
    steps: float  # left
    step_s: float
    since_s: float  # in the step at hand

    @classmethod
    def of(cls, job: Loaded, model: CostModel) -> _Job | None:
        line = model.line(job.pace_key)
        if line is None:
            return None
        steps = max(1.0, line.steps)
        left = max(0.25, steps * (1.0 - job.done))
        return cls(job.job_id, left, line.seconds(job.pixels) / steps, job.since_s)


@dataclass(slots=True)
class _Worker:
    """A worker's clock, and what it steps together."""

    at: float
    jobs: list[_Job]

    def catch_up(self, slowness: float) -> None:
        """Count what was done of the steps at hand, as nobody tells before they have ended."""
        round_s = sum(job.step_s for job in self.jobs) * slowness
        for job in self.jobs:
            job.steps -= min(job.since_s / round_s, _OF_A_STEP * min(1.0, job.steps))

    def finish_first(self) -> tuple[float, list[_Job]]:
        """Play rounds until the first of its jobs has no step left; when, and which have ended."""
        rounds = min(job.steps for job in self.jobs)
        self.at += rounds * sum(job.step_s for job in self.jobs)
        for job in self.jobs:
            job.steps -= rounds
        ended = [job for job in self.jobs if job.steps <= 1e-9]
        self.jobs = [job for job in self.jobs if job.steps > 1e-9]
        return self.at, ended


def simulate(load: Load, model: CostModel, slots: Sequence[int]) -> dict[str, float]:
    """Seconds from now until each held or waiting job ends; empty while nothing is known.

    `slots` are those of the ready workers. Nobody joins the queue later: who does waits behind.
    """
    if not slots or model.line("") is None:
        return {}
    held: dict[str, list[_Job]] = {}
    for job in load.held:
        held.setdefault(job.owner, []).extend(filter(None, [_Job.of(job, model)]))
    owned = sorted(held.values(), key=len, reverse=True)
    rest = [list[_Job]() for _ in range(max(0, len(slots) - len(owned)))]
    workers = [_Worker(0.0, jobs) for jobs in (*owned, *rest)]
    slowness = _slowness(len(owned), load.crowding)
    for worker in workers:
        worker.catch_up(slowness)
    sizes = sorted(slots, reverse=True) + [max(slots)] * max(0, len(workers) - len(slots))
    waiting = [job for row in load.waiting if (job := _Job.of(row, model)) is not None]
    return _play(workers, sizes, waiting, load.crowding)


def _slowness(busy: int, crowding: float) -> float:
    """By what factor steps take longer while so many workers are busy."""
    return 1.0 + crowding * max(0, busy - 1)


def _play(
    workers: list[_Worker], sizes: list[int], waiting: list[_Job], crowding: float
) -> dict[str, float]:
    ends: dict[str, float] = {}
    clock, now_s = 0.0, 0.0  # of a worker that is busy alone, and of the wall
    queue = iter(waiting)
    # Of the workers with a free slot, the one that holds least goes first.
    for held in range(max(sizes)):
        for worker, size in zip(workers, sizes, strict=True):
            if len(worker.jobs) == held < size and (job := next(queue, None)) is not None:
                worker.jobs.append(job)
    heap = [(_next_end(worker), index) for index, worker in enumerate(workers) if worker.jobs]
    heapq.heapify(heap)
    while heap:
        _, index = heapq.heappop(heap)
        worker = workers[index]
        at, ended = worker.finish_first()
        now_s += (at - clock) * _slowness(len(heap) + 1, crowding)
        clock = at
        for job in ended:
            ends[job.job_id] = now_s
            if (following := next(queue, None)) is not None:
                worker.jobs.append(following)
        if worker.jobs:
            heapq.heappush(heap, (_next_end(worker), index))
    return ends


def _next_end(worker: _Worker) -> float:
    rounds = min(job.steps for job in worker.jobs)
    return worker.at + rounds * sum(job.step_s for job in worker.jobs)


def band(likely_s: float, errors: Sequence[float]) -> Eta:
    """The likely seconds with bounds that hold nine predictions in ten, as far as was seen."""
    half = _UNPROVEN
    if len(errors) >= _FEW:
        half = max(_LEAST, sorted(errors)[int(0.9 * (len(errors) - 1))])
    low = likely_s * max(0.0, 1.0 - half)
    return Eta(
        low_s=round(low, 3),
        likely_s=round(likely_s, 3),
        high_s=round(likely_s * (1.0 + half), 3),
    )
