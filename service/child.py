"""The worker's handle on its executor process: start it, talk to it, notice its end, kill it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import cast

from service import executor
from service.messages import FromExecutor, ToExecutor
from service.settings import Settings

_JOIN_S = 5.0


class ExecutorChild:
    """One spawned executor and its pipe. Threads do the blocking, so the event loop never waits.

    Must be made on the main thread inside a running loop: the child dies with that thread.
    """

    def __init__(self, settings: Settings) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(
            target=executor.main, args=(theirs, settings, os.getpid()), name="executor", daemon=True
        )
        self._process.start()
        theirs.close()  # ours is the only end left here, so the child's death closes the pipe
        self._closed = False
        self._hung_up = False
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[FromExecutor | None] = asyncio.Queue()
        self._sender = ThreadPoolExecutor(max_workers=1, thread_name_prefix="executor-send")
        self._reader = threading.Thread(target=self._read, name="executor-read", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id of the executor."""
        assert self._process.pid is not None, "started in __init__"
        return self._process.pid

    @property
    def exitcode(self) -> int | None:
        """Exit status once it has ended; negative is the signal that killed it."""
        return self._process.exitcode

    async def messages(self) -> AsyncIterator[FromExecutor]:
        """What the executor says, in order; ends when the process does."""
        while (message := await self._inbox.get()) is not None:
            yield message
        self._hung_up = True

    async def send(self, message: ToExecutor) -> None:
        """Put a message into the pipe; one sent to a dead executor is lost, as is the executor."""
        if not self._closed:
            with suppress(OSError):
                await self._loop.run_in_executor(self._sender, self._connection.send, message)

    def kill(self) -> None:
        """SIGKILL the executor; `messages` ends soon after."""
        self._process.kill()

    async def close(self) -> None:
        """End the executor if it still runs, and free the pipe and the threads."""
        self._closed = True
        if not self._hung_up:
            self._process.kill()
        # Else it has closed the pipe and is about to go, with an exit status worth knowing.
        await asyncio.to_thread(self._process.join, _JOIN_S)
        self._process.kill()
        await asyncio.to_thread(self._reader.join, _JOIN_S)
        self._sender.shutdown(wait=False)
        self._connection.close()

    def _read(self) -> None:
        message: FromExecutor | None
        while True:
            try:
                message = cast("FromExecutor", self._connection.recv())
            except (EOFError, OSError):
                message = None
            with suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._inbox.put_nowait, message)
            if message is None:
                return
