"""What can go wrong in a request, as one tree; each leaf has a stable code and an HTTP status.

ServiceError
├── InvalidRequest      422 invalid_request      a field is wrong
├── InvalidImage        422 invalid_image        the bytes are not a whole picture
├── ImageTooLarge       413 image_too_large      bytes, pixels or a side above the limit
├── UnsupportedImage    415 unsupported_image    a format we do not read
├── FetchRefused        422 fetch_refused        the address of a picture that is not fetched
├── FetchFailed         422 fetch_failed         retryable: the address did not answer well
├── JobFailed           500 job_failed           the job that the request waited for failed
├── Unauthorized        401 unauthorized         no API key, or one that is not known
├── IdempotencyKeyReuse 422 idempotency_key_reuse  the key or id stands for another request
├── NotFound            404 not_found            no such job (or its retention has ended)
├── ResultNotReady      409 result_not_ready     the job has not finished yet
├── ResultGone          410 result_gone          the job ended without a result
├── QueueFull           429 queue_full           retryable, after `retry_after_s`
├── TooManyStreams      429 too_many_streams     retryable: `max_streams` are open
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
    retryable: bool = False
    retry_after_s: int | None = None
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


class IdempotencyKeyReuse(ServiceError):
    """The idempotency key, or the id of the PUT, stands for another request."""

    code, status, title = "idempotency_key_reuse", 422, "Idempotency key reuse"


class FetchRefused(ServiceError):
    """The picture's address is not one that is fetched: scheme, port or a private network."""

    code, status, title = "fetch_refused", 422, "Fetch refused"


class FetchFailed(ServiceError):
    """The picture's address did not answer with a picture in time."""

    code, status, title = "fetch_failed", 422, "Fetch failed"
    retryable, retry_after_s = True, 5


class JobFailed(ServiceError):
    """The job that the request waited for ended without a result; the message says why."""

    code, status, title = "job_failed", 500, "Job failed"

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class Unauthorized(ServiceError):
    """No API key, or one that is not known: `Authorization: Bearer KEY`."""

    code, status, title = "unauthorized", 401, "Unauthorized"


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

    code, status, title = "queue_full", 429, "Queue full"
    retryable = True

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyStreams(ServiceError):
    """As many clients follow jobs here as are allowed; try again, or ask for the job itself."""

    code, status, title = "too_many_streams", 429, "Too many streams"
    retryable, retry_after_s = True, 5


class ServerUnavailable(ServiceError):
    """Redis is away, full or still loading; nothing was changed as far as we know."""

    code, status, title = "server_unavailable", 503, "Server unavailable"
    retryable, retry_after_s = True, 2
