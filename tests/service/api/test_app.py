"""What holds for every request: its id, its count, and a problem whenever something is wrong."""

import logging
import subprocess
import sys

import httpx
import pytest

from service.api.app import create_app
from service.api.state import Services
from service.settings import Settings


async def test_every_answer_has_a_request_id_of_its_own(api: httpx.AsyncClient) -> None:
    ids = {(await api.get("/livez")).headers["x-request-id"] for _ in range(3)}

    assert len(ids) == 3


async def test_a_request_id_of_the_client_is_echoed(api: httpx.AsyncClient) -> None:
    answer = await api.get("/nowhere", headers={"x-request-id": "trace:4f.1_a-b"})

    assert answer.headers["x-request-id"] == "trace:4f.1_a-b"
    assert answer.json()["request_id"] == "trace:4f.1_a-b"


@pytest.mark.parametrize("given", ["", "two words", "x" * 129, "<b>", "é"])
async def test_a_request_id_that_could_harm_a_log_is_replaced(
    api: httpx.AsyncClient, given: str
) -> None:
    answer = await api.get("/livez", headers={b"x-request-id": given.encode()})

    assert answer.headers["x-request-id"] not in ("", given)


async def test_an_unknown_path_is_a_problem(api: httpx.AsyncClient) -> None:
    answer = await api.get("/nowhere")

    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "urn:instantir:problem:not_found",
        "title": "Not found",
        "status": 404,
        "detail": "Not Found",
        "instance": "/nowhere",
        "code": "not_found",
        "retryable": False,
        "request_id": answer.headers["x-request-id"],
        "errors": [],
    }


async def test_a_wrong_method_is_a_problem_that_names_the_right_ones(
    api: httpx.AsyncClient,
) -> None:
    answer = await api.delete("/restore")

    assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


async def test_a_crash_is_a_problem_without_its_cause_and_is_logged(
    app, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    def crash(*_: object) -> None:
        raise RuntimeError("secret of the house")

    monkeypatch.setattr(app.state.services.queue, "get", crash)

    answer = await api.get("/restore/0b6c1c0e-3f0e-4a51-9d0b-0f6f0c9d2a11")

    assert (answer.status_code, answer.json()["code"]) == (500, "internal_server_error")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret" not in answer.text
    (record,) = [record for record in caplog.records if record.message == "a request failed"]
    assert record.exc_info[1].args == ("secret of the house",)
    assert vars(record)["request_id"] == answer.json()["request_id"]


async def test_no_answer_is_sniffed_for_another_type(api: httpx.AsyncClient) -> None:
    for path in ("/", "/livez", "/nowhere"):
        assert (await api.get(path)).headers["x-content-type-options"] == "nosniff"


async def test_requests_are_logged_with_their_id_and_probes_only_for_debugging(
    api: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "service.api.app")
    answer = await api.get("/nowhere")
    await api.get("/livez")

    asked, probed = [r for r in caplog.records if r.name == "service.api.app"]
    assert asked.message.startswith("GET /nowhere: 404 after ")
    assert (asked.levelno, probed.levelno) == (logging.INFO, logging.DEBUG)
    assert vars(asked)["request_id"] == answer.headers["x-request-id"]


async def test_an_absent_redis_is_a_retryable_problem(
    without_redis: Settings, photo: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(without_redis)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            submitted = await client.post("/restore", files={"image": photo})
            alive = await client.get("/livez")

    assert (submitted.status_code, submitted.json()["code"]) == (503, "server_unavailable")
    assert submitted.json()["retryable"] is True
    assert "nobody.sock" not in submitted.text  # our addresses are nobody's business
    assert "nobody.sock" in caplog.text
    assert int(submitted.headers["retry-after"]) >= 1
    assert alive.status_code == 200


async def test_the_app_is_made_without_reaching_for_redis(without_redis: Settings) -> None:
    app = create_app(without_redis)

    assert not hasattr(app.state, "services")


async def test_its_parts_are_there_once_it_has_started(app, settings: Settings) -> None:
    parts = app.state.services

    assert isinstance(parts, Services)
    assert parts.limits.max_bytes == settings.max_upload_bytes


async def test_two_apps_count_apart(settings: Settings) -> None:
    first, second = create_app(settings), create_app(settings)

    async with first.router.lifespan_context(first), second.router.lifespan_context(second):
        transport = httpx.ASGITransport(first)
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
            await client.get("/livez")
        line = 'instantir_requests_total{code="200",method="GET",route="/livez"} 1.0'
        texts = [app.state.services.metrics.render(None).decode() for app in (first, second)]

    assert [line in text for text in texts] == [True, False]


def test_the_app_loads_no_model_code() -> None:
    script = (
        "import sys; import service.api.app; "
        "heavy = {'torch', 'diffusers', 'transformers', 'onnxruntime', 'numpy', 'engines', "
        "'service.executor', 'service.worker'}; print(sorted(heavy & set(sys.modules)))"
    )

    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )

    assert ran.stdout.strip() == "[]"
