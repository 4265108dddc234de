"""The app with a real Redis behind it: called directly, and behind a real uvicorn."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image

from service.api.app import create_app
from service.api.state import Timing
from service.events import PreviewEvent, ProgressEvent
from service.jobs import OutputInfo
from service.queue import JobQueue
from service.settings import Settings
from service.work import Lease

# Short enough for tests of patience, long enough for everything else on a busy machine.
HASTY = Timing(body_s=0.3, send_s=0.3, heartbeat_s=0.1)


@dataclass(frozen=True, slots=True)
class Live:
    """A server that listens."""

    app: FastAPI
    port: int

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"


class Worker:
    """Does by hand, through the queue, what a worker does."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    async def claim(self) -> Lease:
        """The next job, started."""
        (lease,) = await self._queue.claim("worker", 1)
        await self._queue.start(lease, {"steps": 2}, "nano")
        return lease

    async def step(self, lease: Lease, step: int = 1, frame: bytes | None = None) -> None:
        """One step's progress, and its preview when there is a frame."""
        await self._queue.emit(lease, ProgressEvent(step, 2, "restoring", 500, 0.1, 0.9))
        if frame is not None:
            event = PreviewEvent(step, 2, 24, 16, "image/jpeg")
            assert await self._queue.emit(lease, event, frame)

    async def succeed(self, lease: Lease, data: bytes = b"finished bytes") -> OutputInfo:
        """The result."""
        digest = hashlib.sha256(data).hexdigest()
        output = OutputInfo(
            width=24, height=16, content_type="image/png", bytes=len(data), sha256=digest
        )
        assert await self._queue.succeed(lease, output, data)
        return output

    async def run(self, frame: bytes | None = None) -> OutputInfo:
        """The next job from beginning to end."""
        lease = await self.claim()
        await self.step(lease, 1, frame)
        await self.step(lease, 2)
        return await self.succeed(lease)


Submitted = Callable[..., Awaitable[str]]


@pytest.fixture
def worker(queue: JobQueue) -> Worker:
    return Worker(queue)


@pytest.fixture
async def app(settings: Settings) -> AsyncIterator[FastAPI]:
    """The app, started."""
    made = create_app(settings)
    async with made.router.lifespan_context(made):
        yield made


@pytest.fixture
async def api(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client that calls the app without a network."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        yield client


@asynccontextmanager
async def serve(settings: Settings) -> AsyncGenerator[Live]:
    """The app behind uvicorn on a free port, with little patience."""
    app = create_app(settings, HASTY)
    config = uvicorn.Config(
        app, port=0, log_config=None, lifespan="on", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.wait({running}, timeout=0.01)
        assert not running.done(), "uvicorn did not start"
    try:
        yield Live(app, server.servers[0].sockets[0].getsockname()[1])
    finally:
        # Requests that still stream must have left before the app ends its connections.
        for request in (left := [*server.server_state.tasks]):
            request.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        server.should_exit = True
        await running


@pytest.fixture
async def live(settings: Settings) -> AsyncIterator[Live]:
    """A server in front of the private Redis."""
    async with serve(settings) as made:
        yield made


@pytest.fixture
def without_redis(settings: Settings, tmp_path: Path) -> Settings:
    """Settings for a Redis that is away."""
    return settings.model_copy(update={"redis_url": f"unix://{tmp_path}/nobody.sock"})


@pytest.fixture
async def live_without_redis(without_redis: Settings) -> AsyncIterator[Live]:
    """A server whose Redis is away."""
    async with serve(without_redis) as made:
        yield made


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A small valid upload."""
    out = io.BytesIO()
    Image.linear_gradient("L").resize((24, 16)).convert("RGB").save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def submitted(api: httpx.AsyncClient, photo: bytes) -> Submitted:
    """`await submitted(steps=3)`: the id of a job that was posted."""

    async def submit(**options: object) -> str:
        data = {name: str(value) for name, value in options.items()}
        answer = await api.post("/restore", files={"image": ("photo.png", photo)}, data=data)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["id"])

    return submit
