"""Errors in the shape that OpenAI's clients read, for the paths under /v1."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from pydantic import BaseModel, ConfigDict
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

PREFIX: Final = "/v1/"
_TYPES: Final = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
# Their client tries a 409 again; nothing of ours becomes better by that.
_STATUS: Final = {409: 400, 415: 400, 422: 400, 413: 400, 406: 400}

_STATUSES: Final = {
    400: "The request asks for what cannot be done; `param` names the field.",
    401: "No API key, or one that is not known.",
    404: "There is no such model.",
    429: "Too many jobs wait; `Retry-After` says when to come back.",
    500: "The restoration failed.",
    503: "The service cannot work now.",
}


class OpenAIFault(BaseModel):
    """What went wrong."""

    model_config = ConfigDict(frozen=True)

    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(BaseModel):
    """The body of every error answer under /v1."""

    model_config = ConfigDict(frozen=True)

    error: OpenAIFault


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route under /v1."""
    said: dict[int | str, str] = {status: _STATUSES[status] for status in statuses}
    said["default"] = "Any other error."
    return {status: {"description": text, "model": OpenAIError} for status, text in said.items()}


Handler = Callable[[Request, Exception], Response]


def body(problem: dict[str, Any]) -> dict[str, Any]:
    """The error object made of the fields of problem details."""
    status = int(problem["status"])
    fields: list[dict[str, str]] = problem.get("errors", [])
    other = "server_error" if status >= 500 else "invalid_request_error"
    return {
        "error": {
            "message": problem["detail"],
            "type": _TYPES.get(status, other),
            "param": fields[0]["pointer"].strip("/").replace("/", ".") if fields else None,
            "code": problem["code"],
        }
    }


def in_their_words(answer: Handler) -> Handler:
    """An exception handler that speaks OpenAI's language under /v1 and ours elsewhere."""

    def handle(request: Request, error: Exception) -> Response:
        ours = answer(request, error)
        if not request.url.path.startswith(PREFIX):
            return ours
        problem = json.loads(bytes(ours.body))
        headers = {
            name: value
            for name, value in ours.headers.items()
            if name not in ("content-type", "content-length")
        }
        headers["x-should-retry"] = "true" if problem["retryable"] else "false"
        status = _STATUS.get(ours.status_code, ours.status_code)
        return JSONResponse(body(problem), status, headers)

    return handle
