"""The visits of a mixed load: who comes when and how it behaves, and what became of it.

Nothing here talks to a service: `loadtests.visitors` plays the visits, `loadtests.mixed` judges.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, TypeVar

from service.capacity.fleet import quantile

# How visitors behave, by their share.
MIX: Final = {
    "follow": 0.24,  # submits, then follows the events to the end
    "stream": 0.10,  # gets the events as the answer to its submission
    "socket": 0.10,  # submits, then follows by websocket
    "wait": 0.12,  # gets the finished job as the answer
    "return": 0.12,  # leaves after every few events and goes on where it was, at another process
    "stall": 0.06,  # reads a long job's events to a preview, nothing for long, then the rest
    "cancel": 0.08,  # cancels its job in mid-run
    "delete": 0.08,  # deletes its job in mid-run
    "invalid": 0.10,  # sends what must be refused
}
_SIDES: Final = {64: 0.4, 128: 0.3, 192: 0.2, 256: 0.1}
_PRESETS: Final = {"fast": 0.6, "balanced": 0.25, "faithful": 0.15}
_PRIORITIES: Final = {"high": 0.2, "normal": 0.6, "low": 0.2}
ENDS: Final = ("succeeded", "failed", "canceled", "expired")

T = TypeVar("T")
Seen = tuple[int, str]  # number and type of an event


@dataclass(frozen=True, slots=True)
class Load:
    """How many visits come; everything else about them follows from the seed."""

    seed: int = 0
    seconds: float = 70.0
    per_s: float = 1.0  # outside of the burst
    burst: float = 10.0  # times as many
    burst_s: float = 6.0  # in the middle

    def bursts(self, at_s: float) -> bool:
        """Whether this moment is in the burst."""
        return abs(at_s - self.seconds / 2) < self.burst_s / 2


@dataclass(frozen=True, slots=True)
class Visit:
    """One arrival: its moment, its behavior, and what it asks for."""

    number: int
    at_s: float
    kind: str
    side: int
    options: dict[str, str]


@dataclass(slots=True)
class Outcome:
    """What became of a visit. All times are seconds since the moment for which it was planned."""

    number: int
    kind: str
    at_s: float
    late_s: float = 0.0  # began so much later: the load test's own fault
    took_s: dict[str, float] = field(default_factory=dict[str, float])  # by phase
    job_id: str = ""  # of an accepted job
    status: str = ""  # in which the job was last seen
    seen: list[Seen] = field(default_factory=list[Seen])
    resumed: int = 0  # times that a stream was taken up again
    dropped: int = 0  # times that the service gave up a stalled reader
    error: str = ""
    over: bool = False  # the visitor has left, content or not


def arrivals(load: Load) -> list[Visit]:
    """A Poisson process with a burst in the middle; the same visits for the same load."""
    rng, at_s, made = random.Random(load.seed), 0.0, list[Visit]()

    def pick(shares: Mapping[T, float]) -> T:
        return rng.choices([*shares], [*shares.values()])[0]

    while (at_s := at_s + rng.expovariate(load.burst * load.per_s)) < load.seconds:
        if load.bursts(at_s) or rng.random() < 1 / load.burst:
            kind, side = pick(MIX), pick(_SIDES)
            options = {"preset": pick(_PRESETS), "priority": pick(_PRIORITIES)}
            if kind == "stall":  # more events than sockets take in, and soon
                side, options = 192, {"preset": "faithful", "priority": "high"}
            made.append(Visit(len(made), at_s, kind, side, options))
    return made


def missed(log: Sequence[Seen], seen: Sequence[Seen]) -> int:
    """Events of a log that a follower did not see; of previews only the newest is kept for it."""
    return len({event for event in log if event[1] != "preview"} - set(seen))


def doubled(seen: Sequence[Seen]) -> int:
    """Events that came again, or after a later one."""
    return sum(after[0] <= before[0] for before, after in pairwise(seen))


def p_ms(outcomes: Sequence[Outcome], phase: str, share: float) -> float:
    """Milliseconds within which this share of the visits came to a phase; 0 where none did."""
    took = [1000 * o.took_s[phase] for o in outcomes if phase in o.took_s]
    return quantile(took, share) if took else 0.0
