"""Following a job live: server-sent events, and a websocket with binary previews."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Mapping
from typing import Annotated

import anyio
from fastapi import APIRouter, Header, Query, Response, WebSocket, WebSocketDisconnect
from starlette.types import Receive, Scope, Send

from service import errors, logs
from service.api import schema
from service.api.callers import Caller, caller_of, own_job
from service.api.following import counts, following
from service.api.patience import Patience
from service.api.state import JobId, Services, Wired, parse_job_id
from service.errors import NotFound, ServerUnavailable, TooManyStreams, Unauthorized
from service.jobs import TERMINAL, Job
from service.stream import StreamItem

router = APIRouter(tags=["events"])
logger = logging.getLogger(__name__)

CLOSE_DONE = 1000
CLOSE_TOO_SLOW = 1008
CLOSE_TRY_LATER = 1013
CLOSE_BAD_REQUEST = 4400
CLOSE_UNAUTHORIZED = 4401
CLOSE_NOT_FOUND = 4404

_PROGRESS = re.compile("/restore/([^/]+)/progress")
_AFTER = "Only events with a `seq` above this one; 0 is all of them."


@router.get(
    "/restore/{job_id}/events",
    response_class=Response,
    responses={
        200: {
            "description": (
                "`id: SEQ`, `event: TYPE`, `data: JSON` for each event; TYPE is status, progress, "
                "preview, output or error. A preview carries its picture as a data: URL in "
                "`image`. An `eta` event, without id, says when the job will end. Where events "
                "are no longer kept, an error `replay_gap` and the status come first. A comment "
                "comes in silences; the stream ends after the last status."
            ),
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        204: {"description": "Nothing is left to send: the job ended and all was received."},
        **schema.refusals(
            errors.Unauthorized,
            errors.NotFound,
            errors.InvalidRequest,
            errors.TooManyStreams,
            errors.ServerUnavailable,
        ),
    },
)
async def events(
    job_id: JobId,
    services: Wired,
    caller: Caller,
    starting_after: Annotated[int, Query(ge=0, description=_AFTER, examples=[12])] = 0,
    last_event_id: Annotated[
        int,
        Header(ge=0, description="The same, sent by browsers that reconnect; the later counts."),
    ] = 0,
) -> Response:
    """Follow the job from its beginning or from any event; resumable at any time."""
    after = max(starting_after, last_event_id)
    job = await own_job(services, caller, job_id)
    if job.status in TERMINAL and after >= job.seq:
        return Response(status_code=204)  # anything else makes an EventSource ask for ever
    services.hub.check_room()
    return event_stream(services, job, after)


def event_stream(
    services: Services, job: Job, after: int, headers: Mapping[str, str] | None = None
) -> Response:
    """The answer that streams a job's events above `after`."""
    return streamed(_sse(services, job.id, counts(job), after), services.timing.send_s, headers)


def streamed(
    content: AsyncIterator[bytes], send_s: float, headers: Mapping[str, str] | None = None
) -> Response:
    """Server-sent events as an answer, for clients that take each within `send_s` seconds."""
    return Stream(content, send_s, headers or {})


class Stream(Response):
    """An answer without end, which the door sends when the framework has done its part.

    The framework's two dozen frames would be kept for each of thousands of streams, and be walked
    through for each event.
    """

    media_type = "text/event-stream"

    def __init__(
        self, content: AsyncIterator[bytes], send_s: float, headers: Mapping[str, str]
    ) -> None:
        headers = {**headers, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._content = content
        self._send_s = send_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Leaves itself to the door."""
        scope["state"]["stream"] = self

    async def send(self, receive: Receive, send: Send) -> None:
        """Sends it all, unless the client leaves or takes nothing for `send_s` seconds."""
        start = {"status": self.status_code, "headers": self.raw_headers}
        await send({"type": "http.response.start", **start})
        try:
            async with Patience(self._send_s, receive) as patience:
                async for body in self._content:
                    with patience:
                        await send({"type": "http.response.body", "body": body, "more_body": True})
                    del body  # thousands are not kept until the next one
            await send({"type": "http.response.body"})
        except TimeoutError:
            logger.info("an event stream was dropped: its client took nothing in time")
            logs.answer_was_given_up()


async def _sse(services: Services, job_id: str, counted: bool, after: int) -> AsyncIterator[bytes]:
    yield b": ok\n\n"
    batches = services.hub.batches(job_id, after, services.timing.heartbeat_s)
    with services.metrics.streams_open.labels("sse").track_inprogress():
        try:
            async with following(services, job_id, counted):
                async for batch in batches:
                    yield b"".join(item.sse for item in batch)
                    del batch
        except (NotFound, ServerUnavailable) as error:
            # The client reconnects with the last id and learns what is the matter as a status.
            logger.info("an event stream ended early: %s", error)


async def progress(socket: WebSocket, services: Services) -> None:
    """Follow the job over `/restore/ID/progress`; closes with 1000 after its last status."""
    path: str = socket.scope["path"]
    found = _PROGRESS.fullmatch(path.removeprefix(socket.scope.get("root_path", "")))
    if found is None:
        await socket.close()
        return
    await socket.accept()
    patience = Patience(services.timing.send_s, socket.receive)
    with services.metrics.streams_open.labels("websocket").track_inprogress():
        code, reason = await _tell(socket, found[1], patience, services)
    if not patience.left:
        with anyio.move_on_after(services.timing.send_s):
            await socket.close(code, reason)


async def _tell(
    socket: WebSocket, job_id: str, patience: Patience, services: Services
) -> tuple[int, str]:
    """Send every event; returns the code and reason to close with."""
    text = socket.query_params.get("starting_after", "0")
    if not (text.isascii() and text.isdecimal()):
        return CLOSE_BAD_REQUEST, f"starting_after is {text[:32]!r}; it must be a whole number"
    try:
        async with patience:
            job = await own_job(services, caller_of(socket, services), parse_job_id(job_id))
            services.hub.check_room()
            job_id, counted = job.id, counts(job)
            del job  # thousands are kept for as long as their streams
            batches = services.hub.batches(job_id, int(text[:18]), services.timing.heartbeat_s)
            async with following(services, job_id, counted):
                async for batch in batches:
                    await _send(socket, batch, patience)
                    del batch
    except NotFound as error:
        return CLOSE_NOT_FOUND, error.message[:100]
    except Unauthorized as error:
        return CLOSE_UNAUTHORIZED, error.message
    except (ServerUnavailable, TooManyStreams):
        return CLOSE_TRY_LATER, "the service cannot follow the job now"
    except TimeoutError as error:
        return CLOSE_TOO_SLOW, str(error)
    except (WebSocketDisconnect, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "close" not in str(error):
            raise
        patience.left = True  # while something was being sent
    return CLOSE_DONE, ""


async def _send(socket: WebSocket, batch: list[StreamItem], patience: Patience) -> None:
    for item in batch:
        if item.event is None:
            continue  # the protocol's own pings keep a websocket open
        told = {"text": item.text} if item.frame is None else {"bytes": item.binary}
        with patience:
            await socket.send({"type": "websocket.send", **told})
