"""Webhooks as clients see them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest

from service.api.app import create_app
from service.settings import Settings
from tests.conftest import WaitUntil
from tests.service.api.expect import UNKNOWN, assert_problem
from tests.service.test_guarded_fetch import http, target
from tests.service.test_hooks import SECRET


@pytest.fixture
async def hooked(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service that signs webhooks and calls this machine."""
    update = {"webhook_secret": SECRET, "fetch_private_networks": True}
    app = create_app(settings.model_copy(update=update))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api") as client,
    ):
        yield client


def fields(url: str) -> dict[str, str]:
    return {"webhook": json.dumps({"url": url, "events": ["job.succeeded"]})}


async def test_deliveries_are_shown_and_repeated(
    hooked: httpx.AsyncClient, photo: bytes, worker, wait_until: WaitUntil
) -> None:
    heads: list[str] = []

    def answer(head: str) -> bytes:
        heads.append(head)
        return http(status="204 No Content")

    async with target(answer) as port:
        url = f"http://127.0.0.1:{port}/hook"
        job = (await hooked.post("/restore", files={"image": photo}, data=fields(url))).json()
        assert job["options"]["webhook"]["url"] == url
        await worker.run()
        path = f"/restore/{job['id']}/webhook"

        async def shown() -> list[dict]:
            return (await hooked.get(f"{path}/deliveries")).json()["deliveries"]

        await wait_until(shown)
        again = await hooked.post(f"{path}/redeliver")
        assert again.status_code == 202
        assert again.json()["id"].startswith(f"msg_{job['id']}_")

        async def twice() -> bool:
            return len(await shown()) == 2

        await wait_until(twice)
        first, second = await shown()
    assert (first["status"], first["event"], first["error"]) == (204, "job.succeeded", None)
    assert first["id"] == second["id"]
    assert all("POST /hook" in head and "webhook-signature: v1," in head.lower() for head in heads)


async def test_a_target_can_be_tried(hooked: httpx.AsyncClient) -> None:
    async with target(lambda _: http(status="418 Teapot")) as port:
        answer = await hooked.post("/webhooks/test", json={"url": f"http://127.0.0.1:{port}/"})
    nobody = await hooked.post("/webhooks/test", json={"url": "http://127.0.0.1:9/"})
    assert (answer.status_code, answer.json()["status"]) == (200, 418)
    odd = await hooked.post("/webhooks/test", json={"url": "http://a..b/"})
    assert (nobody.json()["status"], nobody.json()["error"]) == (None, "ConnectError")
    assert odd.json()["error"] == "a..b has no address"


async def test_private_addresses_are_never_called(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"webhook_secret": SECRET}))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api") as client,
    ):
        literal = await client.post("/webhooks/test", json={"url": "http://127.0.0.1:8080/"})
        named = await client.post("/webhooks/test", json={"url": "http://localhost:8080/"})
    assert "private network" in assert_problem(literal, 422, "invalid_request")["detail"]
    assert named.json()["status"] is None
    assert "private network" in named.json()["error"]


@pytest.mark.parametrize(
    ("webhook", "pointer"),
    [
        ({"url": "ftp://example.org/"}, "/webhook/url"),
        ({"url": "http://user:pw@example.org/"}, "/webhook/url"),
        ({"url": ""}, "/webhook/url"),
        ({"url": "http://example.org/", "events": ["job.paused"]}, "/webhook/events/0"),
        ({"url": "http://example.org/", "events": []}, "/webhook/events"),
        ({}, "/webhook/url"),
    ],
)
async def test_a_webhook_that_cannot_be_meant_is_refused(
    hooked: httpx.AsyncClient, photo: bytes, webhook: dict, pointer: str
) -> None:
    data = {"webhook": json.dumps(webhook)}
    answer = await hooked.post("/restore", files={"image": photo}, data=data)
    assert_problem(answer, 422, "invalid_request")
    assert answer.json()["errors"][0]["pointer"] == pointer


async def test_without_a_secret_there_are_no_webhooks(api: httpx.AsyncClient, photo: bytes) -> None:
    data = fields("http://example.org/")
    answer = await api.post("/restore", files={"image": photo}, data=data)
    assert "this service has none" in assert_problem(answer, 422, "invalid_request")["detail"]


@pytest.mark.parametrize(("method", "path"), [("GET", "deliveries"), ("POST", "redeliver")])
async def test_of_unknown_jobs_nothing_is_shown(api, submitted, method: str, path: str) -> None:
    answer = await api.request(method, f"/restore/{UNKNOWN}/webhook/{path}")
    assert_problem(answer, 404, "not_found")
    job_id = await submitted()
    quiet = await api.request(method, f"/restore/{job_id}/webhook/{path}")
    assert quiet.status_code == (200 if method == "GET" else 404)
