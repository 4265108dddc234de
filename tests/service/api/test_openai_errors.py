"""Which shape an error has, and where."""

import httpx
import pytest
from fastapi import FastAPI


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/models/nobody"])
async def test_under_v1_errors_are_theirs(api: httpx.AsyncClient, path: str) -> None:
    answer = await api.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-should-retry"] == "false"
    assert set(answer.json()) == {"error"}
    assert answer.json()["error"]["type"] == "not_found_error"


async def test_a_crash_is_theirs_as_well(
    api: httpx.AsyncClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash() -> None:
        raise RuntimeError("a secret")

    monkeypatch.setattr(app.state.services.queue, "workers", crash)
    answer = await api.get("/v1/models")
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert "secret" not in answer.text


async def test_elsewhere_they_are_ours(api: httpx.AsyncClient) -> None:
    answer = await api.get("/v2/nothing")
    assert answer.headers["content-type"] == "application/problem+json"
