"""Problem details: what each kind of error becomes."""

import json

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

from service import errors
from service.api import problems


@pytest.fixture
def request_() -> Request:
    scope = {"type": "http", "path": "/restore", "headers": [], "state": {"request_id": "r1"}}
    return Request({**scope, "query_string": b"", "scheme": "http", "server": ("api", 80)})


@pytest.mark.parametrize(
    "kind", [kind for kind in errors.ServiceError.__subclasses__() if kind is not errors.QueueFull]
)
def test_each_error_of_the_tree_becomes_its_problem(
    request_: Request, kind: type[errors.ServiceError]
) -> None:
    response = problems.of_service_error(request_, kind("what, the value, the limit"))

    assert (response.status_code, response.media_type) == (kind.status, problems.MEDIA_TYPE)
    assert json.loads(bytes(response.body)) == {
        "type": f"urn:instantir:problem:{kind.code}",
        "title": kind.title,
        "status": kind.status,
        "detail": "what, the value, the limit",
        "instance": "/restore",
        "code": kind.code,
        "retryable": kind.retryable,
        "request_id": "r1",
        "errors": [],
    }
    assert ("retry-after" in response.headers) == kind.retryable


def test_a_full_queue_passes_on_its_own_waiting_time(request_: Request) -> None:
    response = problems.of_service_error(request_, errors.QueueFull("9 wait", retry_after_s=17))

    assert response.headers["retry-after"] == "17"


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [(400, "bad_request", False), (408, "request_timeout", True), (418, "im_a_teapot", False)],
)
def test_an_error_of_the_framework_is_named_after_its_status(
    request_: Request, status: int, code: str, retryable: bool
) -> None:
    error = HTTPException(status, "why", {"X-More": "yes"})

    response = problems.of_http_exception(request_, error)

    body = json.loads(bytes(response.body))
    assert (response.status_code, body["code"], body["retryable"]) == (status, code, retryable)
    assert (body["detail"], response.headers["x-more"]) == ("why", "yes")


def test_validation_errors_are_gathered_under_their_pointers() -> None:
    details = [
        {"loc": ("query", "a/b", 0), "type": "int_type", "msg": "not a number"},
        {"loc": ("query",), "type": "missing", "msg": "nothing there"},
    ]

    error = problems.invalid(details, skip=1)

    assert [field["pointer"] for field in error.errors] == ["/a~1b/0", ""]
    assert error.message == "/a~1b/0: not a number; body: nothing there"


def test_a_pointer_escapes_what_the_standard_says() -> None:
    assert problems.pointer("m~n", "a/b", 3) == "/m~0n/a~1b/3"
    assert problems.pointer() == ""
