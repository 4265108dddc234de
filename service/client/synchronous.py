"""The client for ordinary code: every call of `AsyncClient`, blocking."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import ExitStack
from typing import Any, Self, TypeVar

from anyio.from_thread import start_blocking_portal

from service.client.asynchronous import AsyncClient, Event, Job, OnEvent, Picture, Restored

T = TypeVar("T")


class Client:
    """`AsyncClient` on an event loop of its own, in a thread; close it, or use it as `with`."""

    def __init__(
        self, base_url: str | None = None, *, api_key: str | None = None, timeout_s: float = 120.0
    ) -> None:
        self._stack = ExitStack()
        self._portal = self._stack.enter_context(start_blocking_portal())
        self._client = AsyncClient(base_url, api_key=api_key, timeout_s=timeout_s)
        self._stack.callback(self._portal.call, self._client.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections and end the thread."""
        self._stack.close()

    def restore(
        self,
        image: Picture,
        *,
        on_event: OnEvent | None = None,
        on_preview: Callable[[bytes], object] | None = None,
        on_id: Callable[[str], object] | None = None,
        job_id: str | None = None,
        **options: Any,
    ) -> Restored:
        """As `AsyncClient.restore`; what it calls is called in the client's thread."""
        return self._run(
            lambda: self._client.restore(
                image,
                on_event=on_event,
                on_preview=on_preview,
                on_id=on_id,
                job_id=job_id,
                **options,
            )
        )

    def wait(
        self,
        job_id: str,
        *,
        on_event: OnEvent | None = None,
        on_preview: Callable[[bytes], object] | None = None,
    ) -> Restored:
        """As `AsyncClient.wait`."""
        return self._run(
            lambda: self._client.wait(job_id, on_event=on_event, on_preview=on_preview)
        )

    def submit(self, image: Picture, *, job_id: str | None = None, **options: Any) -> Job:
        """As `AsyncClient.submit`."""
        return self._run(lambda: self._client.submit(image, job_id=job_id, **options))

    def estimate(self, width: int, height: int, **options: Any) -> dict[str, Any]:
        """As `AsyncClient.estimate`."""
        return self._run(lambda: self._client.estimate(width, height, **options))

    def job(self, job_id: str) -> Job:
        """As `AsyncClient.job`."""
        return self._run(lambda: self._client.job(job_id))

    def jobs(self, status: str | None = None) -> Generator[Job]:
        """As `AsyncClient.jobs`."""
        return self._each(self._client.jobs(status))

    def follow(self, job_id: str, starting_after: int = 0) -> Generator[Event]:
        """As `AsyncClient.follow`."""
        return self._each(self._client.follow(job_id, starting_after))

    def result(self, job_id: str, format: str | None = None) -> bytes:
        """As `AsyncClient.result`."""
        return self._run(lambda: self._client.result(job_id, format))

    def cancel(self, job_id: str) -> Job:
        """As `AsyncClient.cancel`."""
        return self._run(lambda: self._client.cancel(job_id))

    def delete(self, job_id: str) -> None:
        """As `AsyncClient.delete`."""
        self._run(lambda: self._client.delete(job_id))

    def _run(self, call: Callable[[], Awaitable[T]]) -> T:
        return self._portal.call(call)

    def _each(self, items: AsyncGenerator[T]) -> Generator[T]:
        try:
            while True:
                try:
                    yield self._portal.call(items.__anext__)
                except StopAsyncIteration:
                    return
        finally:
            self._portal.call(items.aclose)
