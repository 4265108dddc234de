"""One timer for many sends, and clients that leave."""

import asyncio

import pytest
from starlette.types import Message

from service.api.patience import Patience


async def _stay() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("nobody leaves")


async def _pass(seconds: float) -> None:
    await asyncio.wait({asyncio.create_task(asyncio.Event().wait())}, timeout=seconds)


async def test_a_send_that_hangs_is_given_up() -> None:
    patience = Patience(0.05, _stay)

    async def hang() -> None:
        async with patience:
            with patience:
                await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match=r"nothing was taken for 0\.05 s"):
        await hang()
    assert not patience.left


async def test_silence_between_sends_is_no_fault() -> None:
    async with Patience(0.02, _stay) as patience:
        with patience:
            pass
        await _pass(0.1)
        with patience:
            pass


async def test_many_quick_sends_may_last_longer_than_one() -> None:
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.2
    async with Patience(0.05, _stay) as patience:
        while loop.time() < end:
            with patience:
                await _pass(0.005)


async def test_who_leaves_ends_the_block_quietly() -> None:
    said = iter(("websocket.receive", "websocket.disconnect"))

    async def receive() -> Message:
        return {"type": next(said)}

    async with Patience(5.0, receive) as patience:
        await asyncio.Event().wait()
    assert patience.left


async def test_who_leaves_after_the_end_changes_nothing() -> None:
    leaving = asyncio.Event()

    async def receive() -> Message:
        await leaving.wait()
        return {"type": "http.disconnect"}

    async with Patience(5.0, receive) as patience:
        leaving.set()
    assert not patience.left


async def test_an_error_inside_passes_through() -> None:
    async def fail() -> None:
        async with Patience(5.0, _stay) as patience:
            with patience:
                raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await fail()


async def test_a_cancel_from_outside_passes_through() -> None:
    began = asyncio.Event()

    async def stream() -> None:
        async with Patience(5.0, _stay):
            began.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(stream())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
