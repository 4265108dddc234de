"""What can go wrong in a request, as one tree; each leaf has a stable code and an HTTP status.

ServiceError
├── InvalidRequest      422 invalid_request      a field is wrong
├── InvalidImage        422 invalid_image        the bytes are not a whole picture
├── ImageTooLarge       413 image_too_large      bytes, pixels or a side above the limit
├── UnsupportedImage    415 unsupported_image    a format we do not read
├── NotFound            404 not_found            no such job (or its retention has ended)
├── ResultNotReady      409 result_not_ready     the job has not finished yet
├── ResultGone          410 result_gone          the job ended without a result
├── QueueFull           429 queue_full           retryable, after `retry_after_s`
└── ServerUnavailable   503 server_unavailable   retryable: Redis is away
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypedDict


class FieldError(TypedDict):
    """One entry of `errors`: where (JSON pointer), a stable code, and words for people."""

    pointer: str
    code: str
    message: str


class ServiceError(Exception):
    """Base of every error a client is told about. `message` says what, the value and the limit."""

    code: ClassVar[str] = "service_error"
    status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    title: ClassVar[str] = "Service error"

    def __init__(self, message: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.errors: list[FieldError] = list(errors)


class InvalidRequest(ServiceError):
    """A field of the request is missing, unknown or out of range."""

    code, status, title = "invalid_request", 422, "Invalid request"


class InvalidImage(ServiceError):
    """The upload cannot be decoded: damaged, truncated or not a picture."""

    code, status, title = "invalid_image", 422, "Invalid image"


class ImageTooLarge(ServiceError):
    """The upload exceeds the limit of bytes, pixels or pixels a side; the message names both."""

    code, status, title = "image_too_large", 413, "Image too large"


class UnsupportedImage(ServiceError):
    """The upload is a picture in a format that is not accepted."""

    code, status, title = "unsupported_image", 415, "Unsupported image"


class NotFound(ServiceError):
    """There is no such job, or its retention has ended."""

    code, status, title = "not_found", 404, "Not found"


class ResultNotReady(ServiceError):
    """The job has not finished; follow its events or ask again."""

    code, status, title = "result_not_ready", 409, "Result not ready"


class ResultGone(ServiceError):
    """The job ended without a result, or the result is past its retention."""

    code, status, title = "result_gone", 410, "Result gone"


class QueueFull(ServiceError):
    """Too many jobs wait; try again after `retry_after_s` seconds."""

    code, status, retryable, title = "queue_full", 429, True, "Queue full"

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ServerUnavailable(ServiceError):
    """Redis is away, full or still loading; nothing was changed as far as we know."""

    code, status, retryable, title = "server_unavailable", 503, True, "Server unavailable"
