"""Every Redis key and its lifetime. One hash tag on all of them, so that Redis Cluster works.

| key              | type   | holds                                    | lifetime               |
|------------------|--------|------------------------------------------|------------------------|
| queue:PRIORITY   | stream | waiting and held entries                 | for ever, emptied      |
| bell             | stream | one entry, new whenever work arrives     | alive                  |
| job:ID           | hash   | the job's record                         | alive, then retention  |
| events:ID        | stream | the job's event log, ids SEQ-0           | alive, then retention  |
| preview:ID       | hash   | seq and bytes of the newest preview      | alive, then retention  |
| source:ID        | string | the upload                               | alive, then retention  |
| result:ID        | string | the finished picture                     | retention              |
| dead             | zset   | jobs that too many workers lost, by time | retention              |
| ended            | hash   | how many jobs ended, by terminal status  | alive                  |
| pace             | hash   | moving mean of the seconds a job runs    | retention              |
| worker:ID        | hash   | a worker's last heartbeat                | one lease              |
| workers          | zset   | worker ids by last heartbeat             | one lease              |

"alive" is the generous lifetime of an unfinished job, refreshed by submit, claim, renew and
release, so that even a job nobody ever ends cannot leak; "retention" starts when the job ends. The
counts of `ended` begin anew after a whole "alive" without any end. An
entry leaves its queue when its job ends; the stream itself stays, as it holds the workers' group.
"""

from __future__ import annotations

from typing import Final, get_args

from service.jobs import Priority
from service.settings import Settings

TAG: Final = "{instantir}"
GROUP: Final = "workers"
# The consumer that owns entries which a worker gave back; no worker may take this name.
RELEASED: Final = "-released-"
EVENTS_MAXLEN: Final = 1000

PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)  # claim order
PER_JOB: Final = ("job", "events", "preview", "source", "result")

BELL: Final = f"{TAG}:bell"
DEAD: Final = f"{TAG}:dead"
ENDED: Final = f"{TAG}:ended"
PACE: Final = f"{TAG}:pace"
WORKERS: Final = f"{TAG}:workers"

_DAY_S: Final = 86_400


def prefix(kind: str) -> str:
    """What the keys of one kind start with; the job, priority or worker id follows."""
    return f"{TAG}:{kind}:"


def queue(priority: Priority) -> str:
    """Stream of the entries of one priority."""
    return prefix("queue") + priority


def queues() -> list[str]:
    """The streams of all priorities, in claim order."""
    return [queue(priority) for priority in PRIORITIES]


def job(job_id: str) -> str:
    """Hash with the job's record."""
    return prefix("job") + job_id


def events(job_id: str) -> str:
    """Stream with the job's events."""
    return prefix("events") + job_id


def preview(job_id: str) -> str:
    """Hash with the newest preview frame."""
    return prefix("preview") + job_id


def source(job_id: str) -> str:
    """The uploaded bytes."""
    return prefix("source") + job_id


def result(job_id: str) -> str:
    """The finished bytes."""
    return prefix("result") + job_id


def of_job(job_id: str) -> list[str]:
    """Every key that belongs to one job alone."""
    return [prefix(kind) + job_id for kind in PER_JOB]


def worker(worker_id: str) -> str:
    """Hash with a worker's last heartbeat."""
    return prefix("worker") + worker_id


def alive_ttl_s(settings: Settings) -> int:
    """Seconds an unfinished job's keys live after the last sign of life."""
    return max(_DAY_S, 2 * settings.retention_s)
