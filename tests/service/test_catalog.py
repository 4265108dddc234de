"""Lists of jobs, page by page."""

import pytest
from redis.asyncio import Redis

from service import catalog, keys
from service.errors import InvalidRequest
from service.jobs import JobStatus
from service.queue import JobQueue
from tests.service.conftest import Submit


async def ids(redis: Redis, limit: int, status: JobStatus | None = None) -> list[list[str]]:
    """The pages of everybody's jobs until the last one."""
    pages, cursor = [], None
    while True:
        page = await catalog.page(redis, "", limit, status, cursor)
        pages.append([job.id for job in page.jobs])
        if page.next_cursor is None:
            return pages
        cursor = page.next_cursor


async def test_pages_hold_every_job_once_the_newest_first(redis: Redis, submit: Submit) -> None:
    for number in range(5):
        await submit(f"job{number}")
    assert await ids(redis, 2) == [["job4", "job3"], ["job2", "job1"], ["job0"]]


async def test_jobs_of_one_moment_are_neither_lost_nor_shown_twice(
    redis: Redis, submit: Submit
) -> None:
    names = [f"job{number}" for number in range(5)]
    for name in names:
        await submit(name)
    await redis.zadd(keys.jobs(""), dict.fromkeys(names, 1000.0))
    pages = await ids(redis, 2)
    assert sorted(name for page in pages for name in page) == names


async def test_a_new_job_does_not_move_the_pages(redis: Redis, submit: Submit) -> None:
    for number in range(3):
        await submit(f"job{number}")
    first = await catalog.page(redis, "", 2, None, None)
    await submit("later")
    rest = await catalog.page(redis, "", 2, None, first.next_cursor)
    assert [job.id for job in rest.jobs] == ["job0"]


async def test_only_jobs_of_a_status(redis: Redis, submit: Submit, queue: JobQueue) -> None:
    for number in range(4):
        await submit(f"job{number}")
    await queue.cancel("job1")
    await queue.cancel("job3")
    assert await ids(redis, 10, JobStatus.CANCELED) == [["job3", "job1"]]


async def test_jobs_of_others_and_forgotten_ones_are_not_listed(
    redis: Redis, submit: Submit
) -> None:
    await submit("mine")
    await submit("theirs", caller="them")
    await submit("gone")
    await redis.delete(keys.job("gone"))
    assert await ids(redis, 10) == [["mine"]]
    assert await redis.zrange(keys.jobs(""), 0, -1) == [b"mine"]


@pytest.mark.parametrize("cursor", ["x", "%%%", "bm90aGluZw", ""])
async def test_a_cursor_that_is_none_is_refused(redis: Redis, cursor: str) -> None:
    with pytest.raises(InvalidRequest, match="is not a cursor of ours"):
        await catalog.page(redis, "", 10, None, cursor)
