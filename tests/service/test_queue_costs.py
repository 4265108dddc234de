"""What finished jobs teach of costs, and of workers that slow one another down."""

from __future__ import annotations

import pytest
from redis.asyncio import Redis

from service import keys
from service.jobs import OutputInfo
from service.queue import JobQueue
from service.work import Cost, Lease
from tests.conftest import WaitUntil
from tests.service.conftest import Submit

OUTPUT = OutputInfo(width=24, height=16, content_type="image/png", bytes=1, sha256="0" * 64)
ALONE_S = 1.0


async def finish(queue: JobQueue, lease: Lease, seconds: float) -> None:
    assert await queue.succeed(lease, OUTPUT, b"x", Cost(seconds, 2))


async def held(redis: Redis) -> dict[bytes | str, bytes | str]:
    """How many jobs each worker holds, as the server counts."""
    return await redis.hgetall(keys.HELD)


@pytest.fixture
def only(queue: JobQueue, submit: Submit):
    async def claimed(job_id: str, worker_id: str) -> Lease:
        await submit(job_id)
        [lease] = await queue.claim(worker_id, 1)
        return lease

    return claimed


async def test_the_last_costs_of_a_size_are_kept_and_a_line_for_all(queue, only) -> None:
    for number in range(9):
        await finish(queue, await only(f"job-{number}", "a"), float(number))
    [(sized, last), (kind, sums)] = sorted((await queue.costs()).items(), reverse=True)
    assert sized.startswith(kind)
    assert last == [8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0]
    assert len(sums) == 6


async def test_what_jobs_take_longer_beside_a_busy_worker_is_crowding(queue, only) -> None:
    await finish(queue, await only("first", "a"), ALONE_S)
    assert (await queue.load(0)).crowding == 0.0
    other = await only("other", "b")
    for number in range(5):
        await finish(queue, await only(f"job-{number}", "a"), 1.5 * ALONE_S)
    # Jobs of a millisecond, of which the scripts themselves are a part.
    assert (await queue.load(0)).crowding == pytest.approx(0.5, rel=0.4)
    costs = await queue.costs()
    [last] = [seconds for kind, seconds in costs.items() if "@" in kind]
    assert last == pytest.approx([ALONE_S] * len(last), rel=0.4)  # learned while it was not known
    assert last[0] == pytest.approx(ALONE_S, rel=0.1)
    await finish(queue, other, ALONE_S)


async def test_alone_is_no_crowd_however_long_a_job_takes(queue, only) -> None:
    for number, seconds in enumerate((1.0, 5.0, 5.0)):
        await finish(queue, await only(f"job-{number}", "a"), seconds)
    assert (await queue.load(0)).crowding == 0.0


async def test_two_jobs_of_one_worker_are_one_busy_worker(queue, redis, only) -> None:
    first, second = await only("first", "a"), await only("second", "a")
    assert await held(redis) == {b"a": b"2"}
    await finish(queue, first, ALONE_S)
    assert await held(redis) == {b"a": b"1"}
    await finish(queue, second, 9 * ALONE_S)
    assert await held(redis) == {}
    assert (await queue.load(0)).crowding == 0.0


async def test_whoever_loses_a_job_is_not_busy_with_it(
    queue: JobQueue, hasty_queue: JobQueue, redis: Redis, only, wait_until: WaitUntil
) -> None:
    released = await only("released", "a")
    await queue.release(released, count_attempt=False)
    assert await held(redis) == {}
    [lease] = await queue.claim("b", 1)
    await queue.delete(lease.job_id)
    assert await held(redis) == {}
    await only("silent", "c")
    await redis.zadd(keys.LEASES, {"silent": 1.0})
    await wait_until(lambda: hasty_queue.claim("d", 1))
    assert await held(redis) == {b"d": b"1"}
