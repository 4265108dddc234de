"""Following a job live: server-sent events, and a websocket with binary previews."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import struct
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Header, Query, Response, WebSocket
from starlette.responses import StreamingResponse
from starlette.types import Send

from service import errors
from service.api import schema
from service.api.state import JobId, Services, Wired, parse_job_id
from service.errors import NotFound, ServerUnavailable
from service.jobs import TERMINAL
from service.stream import StreamItem, follow

router = APIRouter(tags=["events"])
logger = logging.getLogger(__name__)

# ComfyUI's PREVIEW_IMAGE_WITH_METADATA, so that its clients can read our frames.
PREVIEW_FRAME = 4
_PREVIEW_FIELDS = ("job_id", "seq", "step", "steps", "width", "height")

CLOSE_DONE = 1000
CLOSE_TOO_SLOW = 1008
CLOSE_TRY_LATER = 1013
CLOSE_BAD_REQUEST = 4400
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
                "`image`. A comment comes in silences; the stream ends after the last status."
            ),
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        204: {"description": "Nothing is left to send: the job ended and all was received."},
        **schema.refusals(errors.NotFound, errors.InvalidRequest, errors.ServerUnavailable),
    },
)
async def events(
    job_id: JobId,
    services: Wired,
    starting_after: Annotated[int, Query(ge=0, description=_AFTER, examples=[12])] = 0,
    last_event_id: Annotated[
        int,
        Header(ge=0, description="The same, sent by browsers that reconnect; the later counts."),
    ] = 0,
) -> Response:
    """Follow the job from its beginning or from any event; resumable at any time."""
    after = max(starting_after, last_event_id)
    job = await services.queue.get(job_id)
    if job.status in TERMINAL and after >= job.seq:
        return Response(status_code=204)  # anything else makes an EventSource ask for ever
    return _EventStream(_sse(services, job_id, after), services.timing.send_s)


class _EventStream(StreamingResponse):
    """A stream that gives up on a client which takes nothing for `send_s` seconds."""

    def __init__(self, content: AsyncIterator[bytes], send_s: float) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(content, headers=headers, media_type="text/event-stream")
        self._send_s = send_s

    async def stream_response(self, send: Send) -> None:
        async def send_in_time(message: Any) -> None:
            async with asyncio.timeout(self._send_s):
                await send(message)

        try:
            await super().stream_response(send_in_time)
        except TimeoutError:
            logger.info("an event stream was dropped: its client took nothing in time")


async def _sse(services: Services, job_id: str, after: int) -> AsyncIterator[bytes]:
    yield b": ok\n\n"
    items = follow(services.redis, job_id, after, services.timing.heartbeat_s)
    with services.metrics.streams_open.labels("sse").track_inprogress():
        try:
            async for item in items:
                yield _sse_block(item)
        except (NotFound, ServerUnavailable) as error:
            # The client reconnects with the last id and learns what is the matter as a status.
            logger.info("an event stream ended early: %s", error)


def _sse_block(item: StreamItem) -> bytes:
    if item.event is None:
        return b": heartbeat\n\n"
    event = item.event
    if item.frame is not None:
        data = base64.b64encode(item.frame).decode()
        event = {**event, "image": f"data:{event['content_type']};base64,{data}"}
    return (f"id: {event['seq']}\nevent: {event['type']}\ndata: {json.dumps(event)}\n\n").encode()


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
        items = follow(
            services.redis, parse_job_id(job_id), int(text[:18]), services.timing.heartbeat_s
        )
        async for item in items:
            async with asyncio.timeout(services.timing.send_s):
                await _send(socket, item)
    except NotFound as error:
        return CLOSE_NOT_FOUND, error.message[:100]
    except ServerUnavailable:
        return CLOSE_TRY_LATER, "the job store is away"
    except TimeoutError:
        return CLOSE_TOO_SLOW, f"nothing was taken for {services.timing.send_s:g} s"
    return CLOSE_DONE, ""


async def _send(socket: WebSocket, item: StreamItem) -> None:
    if item.event is None:
        return  # the protocol's own pings keep a websocket open
    if item.frame is None:
        await socket.send_text(json.dumps(item.event))
    else:
        await socket.send_bytes(preview_frame(item.event, item.frame))


def preview_frame(event: dict[str, Any], picture: bytes) -> bytes:
    """One binary frame: uint32 4, uint32 length, JSON, picture; integers big-endian."""
    facts = {name: event[name] for name in _PREVIEW_FIELDS}
    facts["image_type"] = event["content_type"]
    text = json.dumps(facts).encode()
    return struct.pack(">II", PREVIEW_FRAME, len(text)) + text + picture
