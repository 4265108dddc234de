"""Status 0 when the worker of this pod has its model loaded; the probe of a worker's readiness."""

import asyncio
import socket
import sys

from service.connection import connect
from service.errors import ServerUnavailable
from service.queue import JobQueue
from service.settings import Settings


async def ready(settings: Settings, host: str) -> bool:
    """Whether the last heartbeat of the worker on `host` says that it can take jobs."""
    redis = connect(settings)
    try:
        beats = await JobQueue(redis, settings).workers()
    finally:
        await redis.aclose()
    return any(beat["ready"] for name, beat in beats.items() if name.startswith(f"{host}-"))


if __name__ == "__main__":
    try:
        sys.exit(not asyncio.run(ready(Settings(), socket.gethostname())))
    except ServerUnavailable as error:
        sys.exit(f"Redis does not answer: {error}")
