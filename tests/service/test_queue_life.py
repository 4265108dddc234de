"""Random lives of jobs: whatever clients and workers do in whatever order, the promises hold."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service import keys
from service.connection import connect
from service.errors import IdempotencyKeyReuse, NotFound
from service.events import PreviewEvent, ProgressEvent
from service.jobs import (
    MOVES,
    TERMINAL,
    ErrorInfo,
    Job,
    JobStatus,
    OutputInfo,
    RestoreOptions,
    SourceInfo,
)
from service.queue import JobQueue
from service.settings import Settings
from service.work import Lease, LeaseState, Submission
from tests.service.conftest import IMAGE, RESULT

JOBS = ("a", "b", "c")
WORKERS = ("w1", "w2")
MAX_ATTEMPTS = 2

_jobs = st.sampled_from(JOBS)
_workers = st.sampled_from(WORKERS)
_priorities = st.sampled_from(keys.PRIORITIES)
_picks = st.integers(min_value=0, max_value=99)


class JobLife(RuleBasedStateMachine):
    """Three jobs, two workers that remember every lease they ever had, and an unkind clock."""

    def __init__(self, service: Settings, source: SourceInfo, output: OutputInfo) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis = connect(service)
        self.queue = JobQueue(self.redis, service)
        self.source, self.output = source, output
        self.leases: list[Lease] = []
        self.ended: dict[str, Job] = {}
        self.run(self.redis.flushall())

    def run(self, call: Any) -> Any:
        return self.runner.run(call)

    def teardown(self) -> None:
        self.run(self.redis.aclose())
        self.runner.close()

    def job(self, job_id: str) -> Job | None:
        try:
            return self.run(self.queue.get(job_id))
        except NotFound:
            return None

    def holds(self, lease: Lease) -> bool:
        """Whether the server should accept this lease, from what it says about the job."""
        owner, attempt, status = self.run(
            self.redis.hmget(keys.job(lease.job_id), ["owner", "attempt", "status"])
        )
        mine = owner == lease.worker_id.encode() and int(attempt) == lease.attempt
        return mine and status in (b"running", b"canceling")

    def pick(self, number: int) -> Lease:
        return self.leases[number % len(self.leases)]

    @rule(job_id=_jobs, priority=_priorities)
    def submit(self, job_id: str, priority: Any) -> None:
        before = self.job(job_id)
        options = RestoreOptions(priority=priority)
        asked = Submission(options, self.source, IMAGE)
        if before is not None and before.options != options:
            with pytest.raises(IdempotencyKeyReuse):
                self.run(self.queue.submit(job_id, asked))
            return
        admission = self.run(self.queue.submit(job_id, asked))
        assert admission.replayed is (before is not None)
        assert admission.job == before or admission.job.status is JobStatus.QUEUED

    @rule(worker=_workers, n=st.integers(min_value=0, max_value=3))
    def claim(self, worker: str, n: int) -> None:
        before = {job_id: self.job(job_id) for job_id in JOBS}
        leases: list[Lease] = self.run(self.queue.claim(worker, n))
        assert len({lease.job_id for lease in leases}) == len(leases) <= n
        for lease in leases:
            job = before[lease.job_id]
            assert job is not None
            assert job.status in (JobStatus.QUEUED, JobStatus.RUNNING)
            assert lease.attempt == job.attempt + 1 <= MAX_ATTEMPTS
            assert self.holds(lease)
        self.leases += leases

    @precondition(lambda self: self.leases)
    @rule(number=_picks)
    def fall_silent(self, number: int) -> None:
        lease = self.pick(number)
        if self.holds(lease):
            self.run(self.redis.zadd(keys.LEASES, {lease.job_id: 1.0}))

    @precondition(lambda self: self.leases)
    @rule(number=_picks)
    def renew(self, number: int) -> None:
        lease = self.pick(number)
        held, job = self.holds(lease), self.job(lease.job_id)
        state = self.run(self.queue.renew(lease.worker_id, [lease]))[lease.job_id]
        assert job is not None
        expected = LeaseState.CANCEL if job.status is JobStatus.CANCELING else LeaseState.HELD
        assert state is (expected if held else LeaseState.LOST)

    @precondition(lambda self: self.leases)
    @rule(number=_picks, step=st.integers(min_value=1, max_value=4))
    def work(self, number: int, step: int) -> None:
        lease = self.pick(number)
        held = self.holds(lease)
        progress = ProgressEvent(step, 4, "restoring")
        preview = PreviewEvent(step, 4, 8, 8, "image/jpeg")
        assert self.run(self.queue.start(lease, {"steps": 4}, "nano")) is held
        assert self.run(self.queue.emit(lease, progress)) is held
        assert self.run(self.queue.emit(lease, preview, b"frame")) is held

    @precondition(lambda self: self.leases)
    @rule(number=_picks, how=st.sampled_from(["succeed", "fail", "canceled", "return", "lose"]))
    def end(self, number: int, how: str) -> None:
        lease = self.pick(number)
        held, before = self.holds(lease), self.job(lease.job_id)
        calls = {
            "succeed": lambda: self.queue.succeed(lease, self.output, RESULT),
            "fail": lambda: self.queue.fail(lease, ErrorInfo(code="x", message="y")),
            "canceled": lambda: self.queue.canceled(lease),
            "return": lambda: self.queue.release(lease, count_attempt=False),
            "lose": lambda: self.queue.release(lease, count_attempt=True),
        }
        self.run(calls[how]())
        assert before is not None
        after = self.job(lease.job_id)
        if not held:
            assert after == before
        elif how != "canceled" or before.status is JobStatus.CANCELING:
            assert not self.holds(lease)

    @rule(job_id=_jobs)
    def cancel(self, job_id: str) -> None:
        if self.job(job_id) is None:
            with pytest.raises(NotFound):
                self.run(self.queue.cancel(job_id))
        else:
            job: Job = self.run(self.queue.cancel(job_id))
            assert job.status not in (JobStatus.QUEUED, JobStatus.RUNNING)

    @invariant()
    def every_log_is_a_walk_through_the_table(self) -> None:
        for job_id in JOBS:
            log: list[Any] = self.run(self.redis.xrange(keys.events(job_id)))
            job = self.job(job_id)
            assert [entry for entry, _ in log] == [b"%d-0" % n for n in range(1, len(log) + 1)]
            walk = [
                JobStatus(json.loads(fields[b"data"])["status"])
                for _, fields in log
                if fields[b"type"] == b"status"
            ]
            assert all(
                after in MOVES[before] for before, after in zip(walk, walk[1:], strict=False)
            )
            assert (walk[-1] if walk else None) == (job and job.status)
            assert len(log) == (job.seq if job else 0)

    @invariant()
    def what_has_ended_never_changes(self) -> None:
        for job_id in JOBS:
            job = self.job(job_id)
            if job and job.status in TERMINAL:
                assert self.ended.setdefault(job_id, job) == job
            result = self.run(self.redis.exists(keys.result(job_id)))
            assert bool(result) == bool(job and job.status is JobStatus.SUCCEEDED)

    @invariant()
    def every_end_is_counted_once(self) -> None:
        counts = dict.fromkeys(TERMINAL, 0)
        for job_id in JOBS:
            if (job := self.job(job_id)) is not None and job.status in TERMINAL:
                counts[job.status] += 1
        assert self.run(self.queue.ended()) == counts

    @invariant()
    def entries_and_live_jobs_are_the_same_in_number(self) -> None:
        jobs = [job for job_id in JOBS if (job := self.job(job_id)) is not None]
        depth: dict[str, int] = self.run(self.queue.depth())
        assert depth.pop("running") == sum(job.status in ("running", "canceling") for job in jobs)
        assert sum(depth.values()) == sum(job.status == "queued" for job in jobs)

    @invariant()
    def every_key_has_an_end(self) -> None:
        names: list[bytes] = self.run(self.redis.keys())
        ends = {name.decode(): self.run(self.redis.ttl(name)) for name in names}
        assert [name for name, ttl in ends.items() if ttl == -1] == []


@pytest.mark.slow
def test_every_life_of_a_job_keeps_the_promises(
    server: str, source_info: SourceInfo, output_info: OutputInfo
) -> None:
    service = Settings(redis_url=server, lease_s=0.9, max_attempts=MAX_ATTEMPTS)
    factory: Any = lambda: JobLife(service, source_info, output_info)  # noqa: E731 - typed as a class
    run_state_machine_as_test(
        factory,
        settings=settings(
            max_examples=20,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
