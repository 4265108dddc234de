"""Errors as clients see them: RFC 9457 problem details, one shape for every failing path."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from service.errors import FieldError, InvalidRequest, ServiceError, Unauthorized

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_RETRYABLE = frozenset(
    {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
)


class WrongField(BaseModel):
    """One field that is wrong."""

    model_config = ConfigDict(frozen=True)

    pointer: str = Field(description="JSON pointer of the field; a form's fields lie at the top.")
    code: str = Field(description="Stable name of the fault.")
    message: str = Field(description="The fault in words.")


class Problem(BaseModel):
    """The body of every error answer (RFC 9457)."""

    model_config = ConfigDict(frozen=True)

    type: str = Field(description="URN of the kind of error, made from `code`.")
    title: str = Field(description="The kind of error in words; always the same for one `code`.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What happened, with the value and the limit.")
    instance: str = Field(description="Path of the request.")
    code: str = Field(description="Stable name of the kind of error, for programs.")
    retryable: bool = Field(description="Whether the same request may succeed later.")
    request_id: str = Field(description="Also in the `x-request-id` header and in the logs.")
    errors: list[WrongField] = Field(description="The fields that are wrong, by JSON pointer.")


def of_service_error(request: Request, error: Exception) -> Response:
    """The answer to an error of ours."""
    assert isinstance(error, ServiceError)
    headers: dict[str, str] = {}
    if error.retry_after_s is not None:
        headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    detail = error.message
    if isinstance(error.__cause__, RedisError):
        # Addresses inside the house are for the logs only.
        extra = {"request_id": request_id_of(request)}
        logger.warning("%s", detail, extra=extra)
        detail = "the job store is not available; try again"
    kind = _Kind(error.status, error.code, error.title, error.retryable)
    return _respond(request, kind, detail, error.errors, headers)


def of_http_exception(request: Request, error: Exception) -> Response:
    """The answer to an error of the framework: unknown path, wrong method, unreadable form."""
    assert isinstance(error, HTTPException)
    return _of_status(request, error.status_code, error.detail, error.headers)


def of_invalid_parameters(request: Request, error: Exception) -> Response:
    """The answer to a wrong query parameter or header."""
    assert isinstance(error, RequestValidationError)
    return of_service_error(request, invalid(error.errors(), skip=1))


def of_crash(request: Request, _: Exception) -> Response:
    """The answer to a fault of ours; says nothing of its cause."""
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return _of_status(request, status, "an unexpected error; the logs have it by request id")


def invalid(details: Iterable[Mapping[str, Any]], skip: int = 0) -> InvalidRequest:
    """Validation errors of pydantic as one InvalidRequest; `skip` leading parts of a location."""
    errors = [
        FieldError(
            pointer=pointer(*detail["loc"][skip:]), code=detail["type"], message=detail["msg"]
        )
        for detail in details
    ]
    said = "; ".join(f"{error['pointer'] or 'body'}: {error['message']}" for error in errors)
    return InvalidRequest(said, errors)


def pointer(*parts: str | int) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def request_id_of(request: Request) -> str:
    """The id given to the request at the door."""
    return str(request.state.request_id)


@dataclass(frozen=True, slots=True)
class _Kind:
    status: int
    code: str
    title: str
    retryable: bool


def _of_status(
    request: Request, code: int, detail: str, headers: Mapping[str, str] | None = None
) -> Response:
    status = HTTPStatus(code)
    kind = _Kind(status, status.name.lower(), status.phrase.capitalize(), status in _RETRYABLE)
    return _respond(request, kind, detail, (), headers)


def _respond(
    request: Request,
    kind: _Kind,
    detail: str,
    errors: Sequence[FieldError],
    headers: Mapping[str, str] | None,
) -> Response:
    problem = Problem(
        type=f"urn:instantir:problem:{kind.code}",
        title=kind.title,
        status=kind.status,
        detail=detail,
        instance=request.url.path,
        code=kind.code,
        retryable=kind.retryable,
        request_id=request_id_of(request),
        errors=[WrongField(**error) for error in errors],
    )
    return Response(problem.model_dump_json(), kind.status, headers, MEDIA_TYPE)
