"""The app: its parts, its lifespan, and the layer around every request."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache, partial
from typing import Any, Final
from uuid import uuid4

import httpx
from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from service import tasks
from service.api import (
    a1111,
    dead,
    delivery,
    events,
    openai_images,
    ops,
    problems,
    restore,
    schema,
    webhooks,
)
from service.api.forecasts import Forecasts
from service.api.openai_errors import in_their_words
from service.api.pages import build_pages
from service.api.state import Services, Timing, services
from service.api.views import view_at
from service.connection import connect
from service.errors import ServerUnavailable, ServiceError
from service.guarded_fetch import FETCH_TIMEOUT_S, GuardedTransport
from service.hooks import Dispatcher, Outbox
from service.hub import Hub
from service.images import ImageLimits
from service.metrics import Metrics
from service.queue import JobQueue
from service.results import BlobStore, blob_store
from service.settings import Settings

logger = logging.getLogger(__name__)

# Each decoding thread holds one upload and its pixels; more of them only add memory.
_DECODERS: Final = 4
_SWEEP_S: Final = 1.0
_SWEEPS_PER_BLOB_SWEEP: Final = 300
_CLIENT_LEFT: Final = 499
_PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})  # too many to log
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_REQUEST_ID: Final = re.compile(r"[\w.:-]{1,128}", re.ASCII)


def create_app(settings: Settings, timing: Timing | None = None) -> FastAPI:
    """The API for these settings. Redis is reached when the app starts, not before."""
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        async with _parts(settings, timing or Timing(), metrics) as parts:
            app.state.services = parts
            yield

    app = FastAPI(
        title=schema.TITLE,
        version=schema.VERSION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    for kind, answer in (
        (ServiceError, problems.of_service_error),
        (HTTPException, problems.of_http_exception),
        (RequestValidationError, problems.of_invalid_parameters),
    ):
        app.add_exception_handler(kind, in_their_words(answer))
    app.add_middleware(Door, metrics=metrics)
    app.include_router(restore.router)
    app.include_router(delivery.router)
    app.include_router(events.router)
    app.include_router(ops.router)
    app.include_router(dead.router)
    app.include_router(openai_images.router)
    app.include_router(a1111.router)
    app.include_router(webhooks.router)
    app.include_router(build_pages())
    document = cache(partial(schema.describe, app))

    async def openapi() -> dict[str, Any]:
        return document()

    app.add_api_route("/openapi.json", openapi, include_in_schema=False)
    return app


@asynccontextmanager
async def _parts(settings: Settings, timing: Timing, metrics: Metrics) -> AsyncGenerator[Services]:
    # Without Redis the API still starts, and says so at /readyz.
    redis = connect(settings)
    blobs = blob_store(redis, settings)
    queue = JobQueue(redis, settings, blobs)
    hub = Hub(redis, settings.max_streams)
    forecasts = Forecasts(queue, hub)
    outbox = Outbox(redis, settings)
    transport = GuardedTransport(allow_private=settings.fetch_private_networks)
    try:
        async with (
            hub.running(),
            httpx.AsyncClient(transport=transport, timeout=FETCH_TIMEOUT_S) as fetch,
            tasks.running(
                _keep_house(queue, blobs),
                forecasts.tell(),
                _dispatch(settings, queue, outbox, fetch, metrics),
            ),
        ):
            yield Services(
                settings=settings,
                redis=redis,
                queue=queue,
                blobs=blobs,
                metrics=metrics,
                limits=ImageLimits.of(settings),
                timing=timing,
                decoders=CapacityLimiter(_DECODERS),
                hub=hub,
                forecasts=forecasts,
                fetch=fetch,
                outbox=outbox,
            )
    finally:
        await redis.aclose()


async def _dispatch(
    settings: Settings,
    queue: JobQueue,
    outbox: Outbox,
    client: httpx.AsyncClient,
    metrics: Metrics,
) -> None:
    """Deliver webhooks, where there is a secret to sign them with."""
    if settings.webhook_secret is None:
        return

    async def describe(job_id: str) -> dict[str, Any]:
        return view_at("", await queue.get(job_id)).model_dump(mode="json")

    def count(outcome: str) -> None:
        metrics.hooks.labels(outcome).inc()

    await Dispatcher(outbox, client, settings.webhook_secret, describe, count).run()


async def _keep_house(queue: JobQueue, blobs: BlobStore) -> None:
    """Deadlines, lost leases and forgotten blobs, whether or not a worker looks."""
    for turn in itertools.count():
        await asyncio.sleep(_SWEEP_S)
        try:
            await queue.sweep()
            if turn % _SWEEPS_PER_BLOB_SWEEP == 0:
                await blobs.sweep()
        except ServerUnavailable as error:
            logger.info("nothing was swept: %s", error)


class Door:
    """Around every request: its id, its count, its stream, and an answer even when we fail."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or websocket."""
        if scope["type"] == "websocket":
            # Past the framework, whose layers would cost every stream.
            socket = WebSocket(scope, receive, send)
            await events.progress(socket, services(socket))
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        answered: list[int] = []
        began = time.perf_counter()

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered.append(message["status"])
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers["x-content-type-options"] = "nosniff"
            await send(message)

        try:
            await self._app(scope, receive, send_marked)
            stream: events.Stream | None = scope["state"].pop("stream", None)
            if stream is not None:
                await stream.send(receive, send_marked)
        except ClientDisconnect:
            answered.append(_CLIENT_LEFT)
        except Exception as error:  # the last handler: whatever it is, the client is told
            logger.exception("a request failed", extra={"request_id": request_id})
            if answered:
                raise  # too late for an answer: the server breaks the connection off
            response = in_their_words(problems.of_crash)(Request(scope), error)
            await response(scope, receive, send_marked)
        finally:
            self._count(scope, answered[0] if answered else 0, time.perf_counter() - began)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(route, method, str(status)).inc()
        level = logging.DEBUG if route in _PROBES else logging.INFO
        logger.log(
            level,
            "%s %s: %d after %.3f s",
            method,
            scope["path"],
            status,
            seconds,
            extra={"request_id": scope["state"]["request_id"]},
        )


def _request_id(scope: Scope) -> str:
    """The client's own id when it is a plain word, else a new one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid4().hex
