"""The client for asyncio and trio; `Client` is the same for ordinary code."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

import anyio
import httpx

from service.client.failures import ApiError, JobFailedError
from service.client.retries import RETRIED, Retries, Sleep
from service.settings import ClientSettings

_ENDS: Final = frozenset({"succeeded", "failed", "canceled", "expired"})
_QUIET_S: Final = 30.0  # without even a heartbeat, a stream is dead

Job = dict[str, Any]
Picture = bytes | str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a job. `picture` holds the bytes of a preview."""

    type: str  # status, progress, preview, output, error, eta
    data: dict[str, Any]
    picture: bytes | None = None

    @property
    def ends(self) -> bool:
        """Whether the job has ended with it."""
        return self.type == "status" and self.data["status"] in _ENDS


@dataclass(frozen=True, slots=True)
class Restored:
    """A finished restoration."""

    data: bytes  # of the picture's file
    job: Job

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all."""
        target = Path(path)
        unfinished = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            unfinished.write_bytes(self.data)
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)


OnEvent = Callable[[Event], object]


class AsyncClient:
    """Speaks to one service, and tries again where that may help.

    `base_url` and `api_key` default to INSTANTIR_URL and INSTANTIR_API_KEY. A request is given up
    `timeout_s` after its first try. Every call raises ApiError.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float = 120.0,
        sleep: Sleep = anyio.sleep,
    ) -> None:
        environment = ClientSettings()
        key = api_key or environment.api_key
        self._timeout_s = timeout_s
        self._sleep = sleep
        self._http = httpx.AsyncClient(
            base_url=base_url or environment.url,
            headers={"authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(60.0, read=_QUIET_S),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def restore(
        self,
        image: Picture,
        *,
        on_event: OnEvent | None = None,
        on_preview: Callable[[bytes], object] | None = None,
        on_id: Callable[[str], object] | None = None,
        job_id: str | None = None,
        **options: Any,
    ) -> Restored:
        """Restore a picture (bytes, or the path of a file) and wait for the result.

        `on_id` gets the job's id before anything is sent: called again with that `job_id`, the
        job is found whatever happened in between. Raises JobFailedError as well.
        """
        chosen = job_id or str(uuid4())
        if on_id is not None:
            on_id(chosen)
        await self.submit(image, job_id=chosen, **options)
        return await self.wait(chosen, on_event=on_event, on_preview=on_preview)

    async def wait(
        self,
        job_id: str,
        *,
        on_event: OnEvent | None = None,
        on_preview: Callable[[bytes], object] | None = None,
    ) -> Restored:
        """Follow a job to its end and fetch its result. Raises JobFailedError as well."""
        async with aclosing(self.follow(job_id)) as events:
            async for event in events:
                if on_event is not None:
                    on_event(event)
                if on_preview is not None and event.picture is not None:
                    on_preview(event.picture)
        job = await self.job(job_id)
        if job["status"] != "succeeded":
            raise JobFailedError(job)
        return Restored(await self.result(job_id), job)

    async def submit(self, image: Picture, *, job_id: str | None = None, **options: Any) -> Job:
        """Submit a picture; the job. With the same `job_id` again, the job that exists."""
        data = image if isinstance(image, bytes) else await anyio.Path(image).read_bytes()
        fields = {name: _text(value) for name, value in options.items() if value is not None}
        answer = await self._call(
            "PUT", f"/restore/{job_id or uuid4()}", files={"image": data}, data=fields
        )
        return answer.json()

    async def estimate(self, width: int, height: int, **options: Any) -> dict[str, Any]:
        """Position and time of a restoration of so many pixels, without doing anything."""
        body = {"width": width, "height": height, **options}
        return (await self._call("POST", "/restore/estimate", json=body)).json()

    async def job(self, job_id: str) -> Job:
        """The job as it is now."""
        return (await self._call("GET", f"/restore/{job_id}")).json()

    async def jobs(self, status: str | None = None) -> AsyncGenerator[Job]:
        """Your jobs, newest first."""
        params = {"status": status} if status else {}
        while True:
            page = (await self._call("GET", "/restore", params=params)).json()
            for job in page["jobs"]:
                yield job
            if page["next_cursor"] is None:
                return
            params["cursor"] = page["next_cursor"]

    async def result(self, job_id: str, format: str | None = None) -> bytes:
        """The finished file, in another format where one is named."""
        params = {"format": format} if format else {}
        return (await self._call("GET", f"/restore/{job_id}/result", params=params)).content

    async def cancel(self, job_id: str) -> Job:
        """Cancel the job; the job as it is then."""
        return (await self._call("POST", f"/restore/{job_id}/cancel")).json()

    async def delete(self, job_id: str) -> None:
        """End the job and forget it."""
        await self._call("DELETE", f"/restore/{job_id}")

    async def follow(self, job_id: str, starting_after: int = 0) -> AsyncGenerator[Event]:
        """The job's events to its end, also across broken connections."""
        retries = Retries(self._timeout_s, self._sleep)
        after = starting_after
        while True:
            answer = None
            try:
                params = {"starting_after": after}
                path = f"/restore/{job_id}/events"
                async with self._http.stream("GET", path, params=params) as answer:
                    if answer.status_code == HTTPStatus.NO_CONTENT:
                        return
                    if answer.is_error:
                        await answer.aread()
                        if answer.status_code not in RETRIED:
                            raise ApiError.of(answer)
                    else:
                        async for event in _events(answer):
                            retries.reset()
                            after = event.data.get("seq", after)
                            yield event
                            if event.ends:
                                return
            except httpx.TransportError as error:
                failure = ApiError(f"the connection failed: {error or type(error).__name__}")
            else:
                failure = ApiError.of(answer) if answer.is_error else None
            if not await retries.pause(answer):
                raise failure or ApiError("the stream of events ends again and again")

    async def _call(self, method: str, path: str, **more: Any) -> httpx.Response:
        retries = Retries(self._timeout_s, self._sleep)
        while True:
            answer = None
            try:
                answer = await self._http.request(method, path, **more)
                if not answer.is_error:
                    return answer
                failure = ApiError.of(answer)
                if answer.status_code not in RETRIED:
                    raise failure
            except httpx.TransportError as error:
                failure = ApiError(
                    f"{self._http.base_url} does not answer: {error or type(error).__name__}"
                )
            if not await retries.pause(answer):
                raise failure


async def _events(answer: httpx.Response) -> AsyncGenerator[Event]:
    kind = ""
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            data: dict[str, Any] = json.loads(value)
            picture = data.pop("image", None)
            frame = base64.b64decode(picture.partition(",")[2]) if picture else None
            yield Event(kind, data, frame)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, dict) else str(value)
