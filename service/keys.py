"""Every Redis key and its lifetime. One hash tag on all of them, so that Redis Cluster works.

| key              | type   | holds                                        | lifetime              |
|------------------|--------|----------------------------------------------|-----------------------|
| queue:PRIORITY   | zset   | waiting jobs by virtual time                 | alive                 |
| shares:PRIORITY  | zset   | callers by the virtual time of their next job| alive                 |
| clock            | hash   | virtual time of each priority                | alive                 |
| leases           | zset   | held jobs by the end of their lease          | alive                 |
| deadlines        | zset   | unfinished jobs by their next deadline       | alive                 |
| watched          | zset   | jobs to look at: do they still have followers| alive                 |
| bell             | stream | one entry, new whenever work arrives         | alive                 |
| nudge            | stream | one entry, new when a held job must end      | alive                 |
| jobs:CALLER      | zset   | a caller's jobs by submission                | alive                 |
| idempotency:HASH | string | the job that a client's key stands for       | a day                 |
| job:ID           | hash   | the job's record                             | alive, then retention |
| events:ID        | stream | the job's event log, ids SEQ-0               | alive, then retention |
| preview:ID       | hash   | seq and bytes of the newest preview          | alive, then retention |
| source:ID        | string | the upload, where blobs live in Redis        | alive, then retention |
| result:ID        | string | the finished picture, likewise               | retention             |
| followers:ID     | zset   | who follows the job, by end of membership    | one membership        |
| dead             | zset   | jobs that too many workers lost, by time     | retention             |
| ended            | hash   | how many jobs ended, by terminal status      | alive                 |
| hooks            | zset   | webhook messages by the time of their next try | alive               |
| hook:MESSAGE     | hash   | a message: job, event, address, tries, body  | a day                 |
| deliveries:ID    | list   | the last tries for a job's messages          | a day                 |
| cache:HASH:MODEL | string | the job whose result answers an equal request| retention             |
| costs            | hash   | what jobs cost, by kind                      | alive                 |
| held             | hash   | how many jobs each busy worker holds         | alive                 |
| busy             | hash   | seconds that workers were busy; crowding     | alive                 |
| accuracy         | list   | how far the last predictions were off        | alive                 |
| times            | hash   | how many jobs waited and took how long       | alive                 |
| pace             | hash   | moving mean of the seconds a job runs        | retention             |
| worker:ID        | hash   | a worker's last heartbeat                    | one lease             |
| claim:ID         | string | what a worker's last claim took              | one lease             |
| workers          | zset   | worker ids by last heartbeat                 | one lease             |

"alive" is the generous lifetime of an unfinished job, refreshed by submit, claim, renew and
release, so that even a job nobody ever ends cannot leak; "retention" starts when the job ends. The
counts of `ended` and `times` begin anew after a whole "alive" without news. On the channel
`live:ID` a message says that the job's event log has grown.
"""

from __future__ import annotations

import hashlib
from typing import Final, get_args

from service.jobs import Priority
from service.settings import Settings

TAG: Final = "{instantir}"
EVENTS_MAXLEN: Final = 1000
TIMES_S: Final = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0)  # bounds

PRIORITIES: Final[tuple[Priority, ...]] = get_args(Priority)  # claim order
PER_JOB: Final = ("job", "events", "preview", "source", "result", "followers")

_DAY_S: Final = 86_400
IDEMPOTENCY_S: Final = _DAY_S
HOOK_S: Final = _DAY_S


def prefix(kind: str) -> str:
    """What the keys of one kind start with; the job, priority or worker id follows."""
    return f"{TAG}:{kind}:"


def shared(kind: str) -> str:
    """A key there is one of."""
    return f"{TAG}:{kind}"


BELL: Final = shared("bell")
NUDGE: Final = shared("nudge")
CLOCK: Final = shared("clock")
LEASES: Final = shared("leases")
DEADLINES: Final = shared("deadlines")
WATCHED: Final = shared("watched")
DEAD: Final = shared("dead")
HOOKS: Final = shared("hooks")
ENDED: Final = shared("ended")
PACE: Final = shared("pace")
COSTS: Final = shared("costs")
ACCURACY: Final = shared("accuracy")
TIMES: Final = shared("times")
HELD: Final = shared("held")
BUSY: Final = shared("busy")
WORKERS: Final = shared("workers")
SHARED: Final = (
    *(BELL, NUDGE, CLOCK, LEASES, DEADLINES, WATCHED, DEAD, HOOKS, ENDED, PACE, COSTS, ACCURACY),
    *(TIMES, HELD, BUSY, WORKERS),
)


def queue(priority: Priority) -> str:
    """Waiting jobs of one priority."""
    return prefix("queue") + priority


def queues() -> list[str]:
    """The queues of all priorities, in claim order."""
    return [queue(priority) for priority in PRIORITIES]


def shares(priority: Priority) -> str:
    """What the callers of one priority have used of their shares."""
    return prefix("shares") + priority


def jobs(caller: str) -> str:
    """The jobs of one caller."""
    return prefix("jobs") + caller


def idempotency(caller: str, key: str) -> str:
    """The job that a caller's idempotency key stands for."""
    digest = hashlib.sha256(f"{caller}\0{key}".encode()).hexdigest()
    return prefix("idempotency") + digest


def cache(digest: str, fingerprint: str) -> str:
    """The job whose result answers an equal request, while the same model serves."""
    return f"{prefix('cache')}{digest}:{fingerprint}"


def hook(message_id: str) -> str:
    """Hash with a webhook message."""
    return prefix("hook") + message_id


def deliveries(job_id: str) -> str:
    """List of the tries for a job's messages."""
    return prefix("deliveries") + job_id


def job(job_id: str) -> str:
    """Hash with the job's record."""
    return prefix("job") + job_id


def events(job_id: str) -> str:
    """Stream with the job's events."""
    return prefix("events") + job_id


def claim(worker_id: str) -> str:
    """What a worker's last claim took, should its answer be lost."""
    return prefix("claim") + worker_id


def preview(job_id: str) -> str:
    """Hash with the newest preview frame."""
    return prefix("preview") + job_id


def source(job_id: str) -> str:
    """The uploaded bytes."""
    return prefix("source") + job_id


def result(job_id: str) -> str:
    """The finished bytes."""
    return prefix("result") + job_id


def followers(job_id: str) -> str:
    """Who follows the job now."""
    return prefix("followers") + job_id


def live(job_id: str) -> str:
    """Channel on which news of the job are announced."""
    return prefix("live") + job_id


def of_job(job_id: str) -> list[str]:
    """Every key that belongs to one job alone."""
    return [prefix(kind) + job_id for kind in PER_JOB]


def worker(worker_id: str) -> str:
    """Hash with a worker's last heartbeat."""
    return prefix("worker") + worker_id


def alive_ttl_s(settings: Settings) -> int:
    """Seconds an unfinished job's keys live after the last sign of life."""
    return max(_DAY_S, 2 * settings.retention_s)
