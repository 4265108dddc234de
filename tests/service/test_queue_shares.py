"""Who is served next: fair shares among callers, deadlines, followers; and repeated requests."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from redis.asyncio import Redis

from service import keys
from service.errors import IdempotencyKeyReuse, NotFound
from service.jobs import JobStatus, OutputInfo, RestoreOptions, SourceInfo
from service.queue import JobQueue
from service.settings import Settings
from service.work import LeaseState, Submission
from tests.conftest import WaitUntil
from tests.service.conftest import IMAGE, RESULT, Submit, statuses


@pytest.fixture
def asked(source_info: SourceInfo) -> Submission:
    return Submission(RestoreOptions(), source_info, IMAGE, "ann", "key")


async def order(queue: JobQueue, n: int) -> list[str]:
    return [lease.job_id for lease in await queue.claim("w", n)]


async def test_callers_take_turns_however_many_jobs_each_has(
    queue: JobQueue, submit: Submit
) -> None:
    for i in range(5):
        await submit(f"a{i}", caller="ann")
    await submit("b0", caller="bob")
    await submit("b1", caller="bob")
    claimed = await order(queue, 7)
    assert [name for name in claimed if name[0] == "a"] == ["a0", "a1", "a2", "a3", "a4"]
    assert {"b0", "b1"} <= set(claimed[:4])


async def test_a_caller_who_comes_late_does_not_wait_behind_the_backlog_of_another(
    queue: JobQueue, submit: Submit
) -> None:
    for i in range(20):
        await submit(f"a{i:02}", caller="ann")
    assert await order(queue, 10) == [f"a{i:02}" for i in range(10)]
    await submit("b0", caller="bob")
    assert "b0" in await order(queue, 2)


async def test_a_caller_saves_no_turns_while_away(queue: JobQueue, submit: Submit) -> None:
    for i in range(10):
        await submit(f"a{i}", caller="ann")
    await order(queue, 10)
    for i in range(3):
        await submit(f"b{i}", caller="bob")
        await submit(f"c{i}", caller="cyd")
    claimed = await order(queue, 6)
    assert {name[1] for name in claimed[:2]} == {"0"}
    assert {name[1] for name in claimed[4:]} == {"2"}


async def test_shares_hold_within_a_priority_alone(queue: JobQueue, submit: Submit) -> None:
    await submit("low", caller="bob", priority="low")
    for i in range(3):
        await submit(f"a{i}", caller="ann")
    assert (await order(queue, 4))[-1] == "low"


async def test_a_job_given_back_keeps_its_turn(queue: JobQueue, submit: Submit) -> None:
    for i in range(3):
        await submit(f"job{i}")
    [first] = await queue.claim("w", 1)
    await queue.release(first, count_attempt=False)
    assert await order(queue, 3) == ["job0", "job1", "job2"]


@pytest.mark.parametrize("option", ["start_by", "finish_by"])
async def test_a_waiting_job_expires_at_its_deadline_also_without_a_worker(
    queue: JobQueue, redis: Redis, submit: Submit, wait_until: WaitUntil, option: str
) -> None:
    await submit(**{option: 0.05})

    async def expired() -> bool:
        await queue.sweep()
        return (await queue.get("job")).status is JobStatus.EXPIRED

    await wait_until(expired)
    job = await queue.get("job")
    assert job.error is not None
    assert (job.error.code, job.error.retryable) == (f"{option}_passed", True)
    assert "0.05 s" in job.error.message
    assert await statuses(redis) == ["queued", "expired"]
    assert await queue.claim("w", 1) == []


async def test_a_running_job_fails_at_its_finish_by_and_its_worker_learns_of_it(
    queue: JobQueue, submit: Submit, wait_until: WaitUntil
) -> None:
    await submit(start_by=0.01, finish_by=0.3)
    [lease] = await queue.claim("w", 1)

    async def lost() -> bool:
        return await queue.renew("w", [lease]) == {"job": LeaseState.LOST}

    await wait_until(lost)
    job = await queue.get("job")
    assert job.error is not None
    assert (job.status, job.error.code) == (JobStatus.FAILED, "finish_by_passed")


async def test_a_job_that_started_in_time_may_run_past_its_start_by(
    queue: JobQueue, submit: Submit, redis: Redis, output_info: OutputInfo
) -> None:
    await submit(start_by=1)
    [lease] = await queue.claim("w", 1)
    await redis.zadd(keys.DEADLINES, {"job": 1.0})
    await redis.hset(keys.job("job"), "created_at", "1.0")
    await queue.sweep()
    assert await queue.succeed(lease, output_info, RESULT)


async def test_the_same_key_again_returns_the_job_that_exists(
    queue: JobQueue, asked: Submission
) -> None:
    first = await queue.submit("one", asked)
    again = await queue.submit("two", asked)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.job == first.job
    assert (await queue.depth())["normal"] == 1


async def test_the_same_key_for_something_else_is_refused_by_name(
    queue: JobQueue, asked: Submission
) -> None:
    await queue.submit("one", asked)
    other = replace(asked, options=RestoreOptions(steps=3))
    with pytest.raises(IdempotencyKeyReuse, match="the idempotency key 'key'"):
        await queue.submit("two", other)
    with pytest.raises(IdempotencyKeyReuse, match="the id 'one'"):
        await queue.submit("one", replace(other, idempotency_key=None))


async def test_keys_belong_to_their_callers(queue: JobQueue, asked: Submission) -> None:
    await queue.submit("one", asked)
    assert not (await queue.submit("two", replace(asked, caller="bob"))).replayed
    with pytest.raises(IdempotencyKeyReuse):
        await queue.submit("one", replace(asked, caller="bob", idempotency_key=None))


async def test_a_key_whose_job_is_forgotten_counts_anew(
    queue: JobQueue, redis: Redis, asked: Submission
) -> None:
    await queue.submit("one", asked)
    await queue.delete("one")
    assert not (await queue.submit("two", asked)).replayed


async def test_many_requests_with_one_key_at_once_make_one_job(
    queue: JobQueue, asked: Submission
) -> None:
    found = await asyncio.gather(*(queue.submit(f"job{i}", asked) for i in range(20)))
    assert len({admission.job.id for admission in found}) == 1
    assert sum(not admission.replayed for admission in found) == 1


async def test_a_deleted_job_leaves_nothing_but_its_last_words(
    queue: JobQueue, redis: Redis, submit: Submit, output_info: OutputInfo
) -> None:
    await submit()
    [lease] = await queue.claim("w", 1)
    await queue.succeed(lease, output_info, RESULT)
    await queue.delete("job")
    assert await redis.exists(*keys.of_job("job")) == 1
    assert 0 < await redis.ttl(keys.events("job")) <= 10
    for call in (queue.get, queue.delete):
        with pytest.raises(NotFound):
            await call("job")


@pytest.mark.parametrize("running", [False, True])
async def test_deleting_an_unfinished_job_ends_it(
    queue: JobQueue, redis: Redis, submit: Submit, output_info: OutputInfo, running: bool
) -> None:
    await submit()
    leases = await queue.claim("w", 1) if running else []
    await queue.delete("job")
    assert (await statuses(redis))[-1] == "canceled"
    assert await queue.depth() == {"high": 0, "normal": 0, "low": 0, "running": 0}
    for lease in leases:
        assert await queue.renew("w", [lease]) == {"job": LeaseState.LOST}
        assert not await queue.succeed(lease, output_info, RESULT)
    assert await redis.exists(keys.result("job"), keys.job("job")) == 0


async def test_a_job_is_canceled_once_its_last_follower_has_left_for_good(
    redis: Redis, settings: Settings, submit: Submit, wait_until: WaitUntil
) -> None:
    queue = JobQueue(redis, settings.model_copy(update={"disconnect_grace_s": 0.05}))
    await submit()
    for follower in ("one", "other"):
        assert await queue.watch("job", follower, 30)
    await queue.watch("job", "one", 0)
    await queue.sweep()
    assert (await queue.get("job")).status is JobStatus.QUEUED
    await queue.watch("job", "other", 0)

    async def canceled() -> bool:
        await queue.sweep()
        return (await queue.get("job")).status is JobStatus.CANCELED

    await wait_until(canceled)
    assert not await queue.watch("job", "late", 30)


async def test_a_follower_who_comes_back_within_the_grace_keeps_the_job(
    redis: Redis, settings: Settings, submit: Submit
) -> None:
    queue = JobQueue(redis, settings.model_copy(update={"disconnect_grace_s": 0.0}))
    await submit()
    await queue.watch("job", "one", 30)
    await queue.watch("job", "one", 0)
    await queue.watch("job", "one", 30)
    await queue.sweep()
    assert (await queue.get("job")).status is JobStatus.QUEUED


async def test_followers_whose_server_died_count_until_their_membership_ends(
    queue: JobQueue, redis: Redis, submit: Submit
) -> None:
    await submit()
    await queue.watch("job", "one", 30)
    await redis.zadd(keys.WATCHED, {"job": 1.0})
    await queue.sweep()
    assert (await queue.get("job")).status is JobStatus.QUEUED
    await redis.zadd(keys.followers("job"), {"one": 1.0})
    await redis.zadd(keys.WATCHED, {"job": 1.0})
    await queue.sweep()
    assert (await queue.get("job")).status is JobStatus.CANCELED


async def test_a_cancel_wakes_the_worker_that_holds_the_job(
    queue: JobQueue, submit: Submit
) -> None:
    await submit()
    [lease] = await queue.claim("w", 1)
    waiting = asyncio.create_task(queue.wait_for_nudge(10))
    await asyncio.wait((waiting,), timeout=0.05)
    assert not waiting.done()
    await queue.cancel("job")
    await asyncio.wait_for(waiting, 5)
    assert await queue.renew("w", [lease]) == {"job": LeaseState.CANCEL}
