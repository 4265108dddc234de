"""The handle on the executor process."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from service.child import ExecutorChild
from service.jobs import RestoreOptions
from service.messages import Begin, Failed, FromExecutor, LoadFailed, Ready, Shutdown
from service.settings import Settings
from tests.conftest import WaitUntil
from tests.faults.fake import PRESETS
from tests.faults.fleet import alive, script


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(engine="tests.faults.fake:load", model=str(tmp_path))


@pytest.fixture
async def child(settings: Settings) -> AsyncGenerator[ExecutorChild]:
    made = ExecutorChild(settings)
    yield made
    await made.close()


async def test_an_executor_says_that_it_is_ready_and_leaves_when_told(
    child: ExecutorChild,
) -> None:
    said: list[FromExecutor] = []
    async for message in child.messages():
        said.append(message)
        await child.send(Shutdown())
    assert said == [Ready("fake", "0123456789abcdef", PRESETS)]
    await child.close()
    assert child.exitcode == 0


async def test_a_killed_executor_ends_the_messages(child: ExecutorChild) -> None:
    async for _ in child.messages():
        os.kill(child.pid, signal.SIGKILL)
    await child.close()
    assert child.exitcode == -signal.SIGKILL
    await child.send(Shutdown())  # nobody is there to hear it, which is no error


async def test_termination_signals_are_left_to_the_worker(child: ExecutorChild) -> None:
    said = child.messages()
    await anext(said)
    os.kill(child.pid, signal.SIGTERM)
    os.kill(child.pid, signal.SIGINT)
    await child.send(Begin(1, "job", b"no picture", RestoreOptions()))
    assert isinstance(await anext(said), Failed)


async def test_a_model_that_does_not_load_is_reported_before_the_executor_leaves(
    settings: Settings,
) -> None:
    engine = "tests.faults.raises_in_load:load"
    child = ExecutorChild(settings.model_copy(update={"engine": engine}))
    said = [message async for message in child.messages()]
    await child.close()
    assert len(said) == 1
    assert isinstance(said[0], LoadFailed)
    assert "the weights are damaged" in said[0].message


PARENT = """
import asyncio, sys
from service.child import ExecutorChild
from service.settings import Settings

async def main():
    child = ExecutorChild(Settings(engine="tests.faults.fake:load", model=sys.argv[1]))
    async for message in child.messages():
        print(child.pid, flush=True)

asyncio.run(main())
"""


async def test_an_executor_dies_with_its_worker(tmp_path: Path, wait_until: WaitUntil) -> None:
    with script(PARENT, str(tmp_path)) as (parent, pid):
        assert alive(pid)
        parent.kill()
    await wait_until(lambda: not alive(pid))
