"""The app: its parts, its lifespan, and the layer around every request."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from functools import cache, partial
from typing import Any, Final
from uuid import uuid4

from anyio import CapacityLimiter
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api import delivery, events, ops, problems, restore, schema
from service.api.pages import build_pages
from service.api.state import Services, Timing
from service.connection import connect, unavailable_when_away
from service.errors import ServerUnavailable, ServiceError
from service.images import ImageLimits
from service.metrics import Metrics
from service.queue import JobQueue
from service.results import RedisBlobStore
from service.settings import Settings

logger = logging.getLogger(__name__)

# Each decoding thread holds one upload and its pixels; more of them only add memory.
_DECODERS: Final = 4
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
    app.add_exception_handler(ServiceError, problems.of_service_error)
    app.add_exception_handler(HTTPException, problems.of_http_exception)
    app.add_exception_handler(RequestValidationError, problems.of_invalid_parameters)
    app.add_middleware(Door, metrics=metrics)
    app.include_router(restore.router)
    app.include_router(delivery.router)
    app.include_router(events.router)
    app.include_router(ops.router)
    app.include_router(build_pages())
    document = cache(partial(schema.describe, app))

    async def openapi() -> dict[str, Any]:
        return document()

    app.add_api_route("/openapi.json", openapi, include_in_schema=False)
    return app


@asynccontextmanager
async def _parts(settings: Settings, timing: Timing, metrics: Metrics) -> AsyncGenerator[Services]:
    redis = connect(settings)
    queue = JobQueue(redis, settings)
    try:
        # Without Redis the API still starts, says so at /readyz, and sets up at first use.
        with suppress(ServerUnavailable), unavailable_when_away():
            await queue.setup()
        yield Services(
            settings=settings,
            redis=redis,
            queue=queue,
            blobs=RedisBlobStore(redis, settings),
            metrics=metrics,
            limits=ImageLimits.of(settings),
            timing=timing,
            decoders=CapacityLimiter(_DECODERS),
        )
    finally:
        await redis.aclose()


class Door:
    """Around every request: its id, its count, and an answer even when we fail."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; everything but HTTP passes through."""
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
        except ClientDisconnect:
            answered.append(_CLIENT_LEFT)
        except Exception:  # the last handler: whatever it is, the client is told
            logger.exception("a request failed", extra={"request_id": request_id})
            if answered:
                raise  # too late for an answer: the server breaks the connection off
            response = problems.of_crash(Request(scope))
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
