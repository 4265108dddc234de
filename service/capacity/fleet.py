"""A fleet in simulated time: arrivals, one queue, and workers that step what they hold together.

It plays the rules of the real one (`service.worker`, `service.executor`): a job goes to the worker
that holds least and has a free slot, else it waits its turn; between two rounds, which take every
job of a worker one step further, new jobs begin (encoding) and done ones are finished (decoding),
one after the other. Workers may start late, be lost, or follow the queue.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final

import simpy

_LOOK_S: Final = 15.0  # how often an autoscaler looks at the queue


@dataclass(frozen=True, slots=True)
class Kind:
    """Jobs that cost alike: seconds of each part on a worker that does nothing else."""

    share: float  # of all jobs
    steps: int
    step_s: float
    begin_s: float = 0.0
    finish_s: float = 0.0

    @property
    def seconds(self) -> float:
        """What a job costs."""
        return self.begin_s + self.steps * self.step_s + self.finish_s


@dataclass(frozen=True, slots=True)
class Pace:
    """How workers step.

    together: share of a step's time that a round takes once, however many jobs are in it; 0 where
    jobs run one after the other. crowding: by what share each further busy worker slows the
    others down; 0 where each has a machine of its own.
    """

    slots: int = 4
    together: float = 0.0
    crowding: float = 0.0

    def round_s(self, steps: Sequence[float]) -> float:
        """Seconds of a round over jobs with these step times."""
        return self.together * max(steps) + (1 - self.together) * sum(steps)

    def slowness(self, busy: int) -> float:
        """By what factor everything takes longer while so many workers are busy."""
        return 1 + self.crowding * max(0, busy - 1)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job that somebody submits."""

    at_s: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class Scaling:
    """Workers follow the queue: one for each `slots` jobs, between `least` and `most`."""

    least: int
    most: int
    start_s: float  # from the decision to a loaded model
    idle_s: float = 300.0  # without a job, before the last workers go


@dataclass(frozen=True, slots=True)
class Loss:
    """So many workers end at once and stay away."""

    at_s: float
    workers: int


@dataclass(slots=True)
class Outcome:
    """What came of it."""

    waited: list[float] = field(default_factory=list[float])  # until a worker took the job
    took: list[float] = field(default_factory=list[float])  # from arrival to end
    ended: list[float] = field(default_factory=list[float])
    worker_s: float = 0.0  # workers times seconds that they were paid for
    busy_s: float = 0.0

    @property
    def per_s(self) -> float:
        """Jobs ended in a second, from the first arrival to the last end."""
        return len(self.ended) / max(self.ended)

    @property
    def use(self) -> float:
        """Share of the paid time that workers were busy."""
        return self.busy_s / self.worker_s if self.worker_s else 0.0

    def quantile(self, share: float) -> float:
        """Seconds within which this share of the jobs came back."""
        return quantile(self.took, share)


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def poisson(kinds: Sequence[Kind], per_s: float, jobs: int, seed: int = 0) -> list[Arrival]:
    """Jobs at random, so many a second on the mean, of kinds by their share."""
    rng, at, made = random.Random(seed), 0.0, list[Arrival]()
    for _ in range(jobs):
        at += rng.expovariate(per_s)
        [kind] = rng.choices(kinds, [kind.share for kind in kinds])
        made.append(Arrival(at, kind))
    return made


@dataclass(slots=True)
class _Job:
    kind: Kind
    came_s: float
    left: int
    began_s: float | None = None
    encoded: bool = False


class _Worker:
    def __init__(self, env: simpy.Environment, start_s: float) -> None:
        self.held: list[_Job] = []
        self.bell = env.event()
        self.since_s = env.now - start_s  # starting is paid for
        self.process: simpy.Process | None = None

    def load(self) -> int:
        return len(self.held)


class _Fleet:
    def __init__(self, env: simpy.Environment, pace: Pace) -> None:
        self.env = env
        self.pace = pace
        self.waiting: deque[_Job] = deque()
        self.workers: list[_Worker] = []
        self.starting = 0
        self.used_s = 0.0  # when a job ended last
        self.outcome = Outcome()

    @property
    def held(self) -> int:
        return sum(len(worker.held) for worker in self.workers)

    @property
    def busy(self) -> int:
        return sum(bool(worker.held) for worker in self.workers)

    def add(self, start_s: float = 0.0) -> None:
        worker = _Worker(self.env, start_s)
        self.workers.append(worker)
        worker.process = self.env.process(self._work(worker))
        self.assign()

    def remove(self, worker: _Worker) -> None:
        """Its jobs go back to the head of the queue and begin anew."""
        self.workers.remove(worker)
        self.outcome.worker_s += self.env.now - worker.since_s
        for job in reversed(worker.held):
            job.left, job.encoded = job.kind.steps, False
            self.waiting.appendleft(job)
        worker.held = []
        assert worker.process is not None, "it was started when it was added"
        worker.process.interrupt()
        self.assign()

    def assign(self) -> None:
        if not self.waiting:
            return
        free: list[_Worker] = [one for one in self.workers if one.load() < self.pace.slots]
        while self.waiting and free:
            worker: _Worker = min(free, key=_Worker.load)
            job = self.waiting.popleft()
            if job.began_s is None:
                job.began_s = self.env.now
                self.outcome.waited.append(self.env.now - job.came_s)
            worker.held.append(job)
            if not worker.bell.triggered:
                worker.bell.succeed()
            free = [one for one in free if one.load() < self.pace.slots]

    def _work(self, worker: _Worker) -> Generator[simpy.Event, Any, None]:
        try:
            while True:
                if not worker.held:
                    worker.bell = self.env.event()
                    yield worker.bell
                yield from self._turn(worker)
        except simpy.Interrupt:
            return

    def _turn(self, worker: _Worker) -> Generator[simpy.Event, Any, None]:
        """What the executor does next: begin a job, finish one, or step all of them."""
        new = next((job for job in worker.held if not job.encoded), None)
        done = next((job for job in worker.held if job.left == 0), None)
        if new is not None:
            yield self._spend(new.kind.begin_s)
            new.encoded = True
        elif done is not None:
            yield self._spend(done.kind.finish_s)
            self._end(worker, done)
            self.assign()
        else:
            batch = list(worker.held)
            yield self._spend(self.pace.round_s([job.kind.step_s for job in batch]))
            for job in batch:
                job.left -= 1

    def _spend(self, alone_s: float) -> simpy.Event:
        seconds = alone_s * self.pace.slowness(self.busy if self.pace.crowding else 1)
        self.outcome.busy_s += seconds
        return self.env.timeout(seconds)

    def _end(self, worker: _Worker, job: _Job) -> None:
        worker.held.remove(job)
        self.used_s = self.env.now
        self.outcome.took.append(self.env.now - job.came_s)
        self.outcome.ended.append(self.env.now)


def simulate(
    pace: Pace,
    arrivals: Sequence[Arrival],
    workers: int,
    scaling: Scaling | None = None,
    loss: Loss | None = None,
) -> Outcome:
    """Play until every job has ended; raises ValueError where no worker would ever come.

    workers: at the start; with `scaling` their number follows the queue from there.
    """
    lost = loss.workers if loss else 0
    if scaling is not None and scaling.most < 1:
        raise ValueError(f"most workers are {scaling.most}, at least 1 is needed")
    if not arrivals:
        raise ValueError("no job arrives: nothing can be simulated")
    if scaling is None and workers - lost < 1:
        raise ValueError(f"workers are {workers}, of which {lost} are lost: nobody ends the jobs")
    env = simpy.Environment()
    fleet = _Fleet(env, pace)
    for _ in range(workers):
        fleet.add()
    done = env.process(_arrive(fleet, arrivals))
    if scaling is not None:
        env.process(_scale(fleet, scaling))
    if loss is not None:
        env.process(_lose(fleet, loss))
    env.run(until=done)
    while len(fleet.outcome.ended) < len(arrivals):
        env.step()
    for worker in fleet.workers:
        fleet.outcome.worker_s += env.now - worker.since_s
    return fleet.outcome


def _arrive(fleet: _Fleet, arrivals: Sequence[Arrival]) -> Generator[simpy.Event, Any, None]:
    for arrival in arrivals:
        yield fleet.env.timeout(max(0.0, arrival.at_s - fleet.env.now))
        fleet.waiting.append(_Job(arrival.kind, fleet.env.now, arrival.kind.steps))
        fleet.assign()


def _lose(fleet: _Fleet, loss: Loss) -> Generator[simpy.Event, Any, None]:
    yield fleet.env.timeout(loss.at_s)
    for worker in fleet.workers[: loss.workers]:
        fleet.remove(worker)


def _scale(fleet: _Fleet, scaling: Scaling) -> Generator[simpy.Event, Any, None]:
    while True:
        wanted = math.ceil((len(fleet.waiting) + fleet.held) / fleet.pace.slots)
        wanted = min(scaling.most, max(scaling.least, wanted))
        have = len(fleet.workers) + fleet.starting
        for _ in range(wanted - have):
            fleet.starting += 1
            fleet.env.process(_start(fleet, scaling.start_s))
        idle = [worker for worker in fleet.workers if not worker.held]
        quiet = fleet.env.now - fleet.used_s >= scaling.idle_s
        for worker in idle[: have - wanted] if quiet else ():
            fleet.remove(worker)
        yield fleet.env.timeout(_LOOK_S)


def _start(fleet: _Fleet, start_s: float) -> Generator[simpy.Event, Any, None]:
    yield fleet.env.timeout(start_s)
    fleet.starting -= 1
    fleet.add(start_s)


def mean_seconds(kinds: Sequence[Kind]) -> float:
    """What a job costs on the mean."""
    return fmean([kind.seconds for kind in kinds], [kind.share for kind in kinds])
