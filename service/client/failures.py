"""What a client raises."""

from __future__ import annotations

from typing import Any

import httpx


class ApiError(Exception):
    """The service refused a request, or could not be reached in time."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "unreachable",
        retryable: bool = True,
        request_id: str = "",
        errors: list[dict[str, str]] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status  # of HTTP; 0 where no answer came
        self.code = code
        self.retryable = retryable
        self.request_id = request_id
        self.errors = errors or []  # fields that are wrong: pointer, code, message

    @classmethod
    def of(cls, answer: httpx.Response) -> ApiError:
        """The error that an answer (read to its end) tells of."""
        try:
            problem: dict[str, Any] = answer.json()
            return cls(
                str(problem["detail"]),
                status=answer.status_code,
                code=str(problem["code"]),
                retryable=bool(problem["retryable"]),
                request_id=str(problem["request_id"]),
                errors=problem["errors"],
            )
        except (ValueError, KeyError, TypeError):  # something between us and the service spoke
            return cls(
                f"the answer is {answer.status_code} {answer.reason_phrase}",
                status=answer.status_code,
                code="http_error",
                retryable=answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR,
            )


class JobFailedError(Exception):
    """A job ended without a result; `job` is its record."""

    def __init__(self, job: dict[str, Any]) -> None:
        error: dict[str, Any] = job.get("error") or {"message": "", "retryable": False}
        why = f": {error['message']}" if error["message"] else ""
        super().__init__(f"job {job['id']} {job['status']}{why}")
        self.job = job
        self.retryable = bool(error["retryable"])
