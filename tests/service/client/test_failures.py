"""Errors out of answers."""

import httpx

from service.client import ApiError, JobFailedError


def test_what_is_no_answer_of_ours_is_told_by_its_status() -> None:
    error = ApiError.of(httpx.Response(502, text="<html>bad gateway</html>"))
    assert (error.status, error.code, error.retryable) == (502, "http_error", True)
    assert "502 Bad Gateway" in str(error)


def test_a_job_without_an_error_is_told_by_its_status() -> None:
    assert str(JobFailedError({"id": "x", "status": "canceled"})) == "job x canceled"
