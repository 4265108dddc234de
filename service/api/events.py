"""Following a job live: server-sent events, and a websocket with binary previews."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Header, Query, Response, WebSocket, WebSocketDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Send

from service import errors
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
    return _EventStream(content, send_s, headers or {})


class _EventStream(StreamingResponse):
    """A stream that gives up on a client which takes nothing for `send_s` seconds."""

    def __init__(
        self, content: AsyncIterator[bytes], send_s: float, headers: Mapping[str, str]
    ) -> None:
        headers = {**headers, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(content, headers=headers, media_type="text/event-stream")
        self._send_s = send_s

    async def stream_response(self, send: Send) -> None:
        patience = Patience(self._send_s)

        async def send_in_time(message: Any) -> None:
            with patience:
                await send(message)

        try:
            with patience.watching():
                await super().stream_response(send_in_time)
        except TimeoutError:
            logger.info("an event stream was dropped: its client took nothing in time")


async def _sse(services: Services, job_id: str, counted: bool, after: int) -> AsyncIterator[bytes]:
    yield b": ok\n\n"
    batches = services.hub.batches(job_id, after, services.timing.heartbeat_s)
    with services.metrics.streams_open.labels("sse").track_inprogress():
        try:
            async with following(services, job_id, counted):
                async for batch in batches:
                    yield b"".join(item.sse for item in batch)
        except (NotFound, ServerUnavailable) as error:
            # The client reconnects with the last id and learns what is the matter as a status.
            logger.info("an event stream ended early: %s", error)


@router.websocket("/restore/{job_id}/progress")
async def progress(socket: WebSocket, job_id: str, services: Wired) -> None:
    """Follow the job over a websocket; closes with 1000 after its last status."""
    await socket.accept()
    code, reason = CLOSE_DONE, ""
    # Whoever leaves is noticed by reading, even while nothing is being sent.
    async with anyio.create_task_group() as group:
        group.start_soon(_until_left, socket, group.cancel_scope)
        with services.metrics.streams_open.labels("websocket").track_inprogress():
            code, reason = await _tell(socket, job_id, services)
        with anyio.move_on_after(services.timing.send_s):
            await socket.close(code, reason)
        group.cancel_scope.cancel()


async def _until_left(socket: WebSocket, scope: anyio.CancelScope) -> None:
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass  # nothing a client says means anything here
    scope.cancel()


async def _tell(socket: WebSocket, job_id: str, services: Services) -> tuple[int, str]:
    """Send every event; returns the code and reason to close with."""
    text = socket.query_params.get("starting_after", "0")
    if not (text.isascii() and text.isdecimal()):
        return CLOSE_BAD_REQUEST, f"starting_after is {text[:32]!r}; it must be a whole number"
    try:
        job = await own_job(services, caller_of(socket, services), parse_job_id(job_id))
        services.hub.check_room()
        job_id, counted = job.id, counts(job)
        del job  # thousands are kept for as long as their streams
        batches = services.hub.batches(job_id, int(text[:18]), services.timing.heartbeat_s)
        patience = Patience(services.timing.send_s)
        with patience.watching():
            async with following(services, job_id, counted):
                async for batch in batches:
                    for item in batch:
                        with patience:
                            await _send(socket, item)
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
        return CLOSE_DONE, ""  # the client left while something was being sent
    return CLOSE_DONE, ""


async def _send(socket: WebSocket, item: StreamItem) -> None:
    if item.event is None:
        return  # the protocol's own pings keep a websocket open
    if item.frame is None:
        await socket.send_text(item.text)
    else:
        await socket.send_bytes(item.binary)
