"""What several tests of the API expect of an answer."""

import httpx

UNKNOWN = "0b6c1c0e-3f0e-4a51-9d0b-0f6f0c9d2a11"


def assert_problem(answer: httpx.Response, status: int, code: str) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == answer.headers["x-request-id"]
    return problem
