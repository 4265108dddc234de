"""Tasks end when they are told to."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from service.tasks import end, running
from tests.conftest import WaitUntil


async def test_a_task_that_swallows_a_cancel_is_ended_all_the_same() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed > 1:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.wait((task,), timeout=0.01)
    await end(task)
    assert task.cancelled()
    assert swallowed == 2


async def test_tasks_run_around_a_block_and_end_with_it() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with suppress(ZeroDivisionError):
        async with running(work()):
            await began.wait()
            assert not ended.is_set()
            raise ZeroDivisionError
    assert ended.is_set()


async def test_a_task_that_has_ended_needs_no_cancel() -> None:
    async def broken() -> None:
        raise ValueError("mine")

    task = asyncio.create_task(broken())
    await asyncio.wait((task,))
    await end(task)
    with pytest.raises(ValueError, match="mine"):
        task.result()


async def test_work_that_dies_is_told(
    caplog: pytest.LogCaptureFixture, wait_until: WaitUntil
) -> None:
    async def broken() -> None:
        raise ValueError("mine")

    async with running(broken()):
        await wait_until(lambda: bool(caplog.text))
    assert "broken ended by a fault" in caplog.text
    assert "ValueError: mine" in caplog.text


async def test_work_that_is_ended_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    began = asyncio.Event()

    async def work() -> None:
        began.set()
        await asyncio.Event().wait()

    async with running(work()):
        await began.wait()
    assert caplog.text == ""
