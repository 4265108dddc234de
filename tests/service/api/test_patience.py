"""One timer for many sends."""

import asyncio

import pytest

from service.api.patience import Patience


async def test_a_send_that_hangs_is_given_up() -> None:
    patience = Patience(0.05)

    async def hang() -> None:
        with patience.watching(), patience:
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError, match=r"nothing was taken for 0\.05 s"):
        await hang()


async def test_silence_between_sends_is_no_fault() -> None:
    patience = Patience(0.02)
    with patience.watching():
        with patience:
            pass
        await asyncio.wait({asyncio.create_task(asyncio.Event().wait())}, timeout=0.1)
        with patience:
            pass


async def test_many_quick_sends_may_last_longer_than_one() -> None:
    patience = Patience(0.05)
    loop = asyncio.get_running_loop()
    end = loop.time() + 0.2
    with patience.watching():
        while loop.time() < end:
            with patience:
                await asyncio.wait({asyncio.create_task(asyncio.Event().wait())}, timeout=0.005)


async def test_an_error_inside_passes_through() -> None:
    patience = Patience(5.0)
    with pytest.raises(ValueError, match="mine"), patience.watching(), patience:
        raise ValueError("mine")
