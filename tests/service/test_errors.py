from __future__ import annotations

import pytest

from service import errors
from service.errors import FieldError, InvalidRequest, QueueFull, ServiceError

LEAVES = ServiceError.__subclasses__()


def test_codes_are_stable_and_unique() -> None:
    assert {leaf.code: leaf.status for leaf in LEAVES} == {
        "invalid_request": 422,
        "invalid_image": 422,
        "image_too_large": 413,
        "unsupported_image": 415,
        "fetch_refused": 422,
        "fetch_failed": 422,
        "job_failed": 500,
        "unauthorized": 401,
        "idempotency_key_reuse": 422,
        "not_found": 404,
        "result_not_ready": 409,
        "result_gone": 410,
        "queue_full": 429,
        "too_many_streams": 429,
        "server_unavailable": 503,
    }
    assert len({leaf.code for leaf in LEAVES}) == len(LEAVES)


def test_only_what_may_pass_by_itself_is_retryable() -> None:
    assert {leaf.code for leaf in LEAVES if leaf.retryable} == {
        *("queue_full", "too_many_streams", "fetch_failed", "server_unavailable")
    }


@pytest.mark.parametrize("leaf", LEAVES)
def test_the_tree_in_the_docstring_is_the_tree(leaf: type[ServiceError]) -> None:
    tree = errors.__doc__ or ""
    [line] = [line for line in tree.splitlines() if f"─ {leaf.__name__} " in line]
    assert f" {leaf.status} {leaf.code} " in line
    assert leaf.title


def test_an_error_carries_its_message_and_fields() -> None:
    field: FieldError = {"pointer": "/steps", "code": "too_large", "message": "at most 100"}
    error = InvalidRequest("steps is 200, the limit is 100", [field])
    assert str(error) == error.message == "steps is 200, the limit is 100"
    assert error.errors == [field]


def test_a_full_queue_says_when_to_come_back() -> None:
    error = QueueFull("200 jobs wait and the limit is 200", retry_after_s=7)
    assert (error.retry_after_s, error.errors) == (7, [])
