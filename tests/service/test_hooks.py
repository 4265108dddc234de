"""Webhooks: the outbox, the dispatcher, signatures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from service import hooks, keys
from service.errors import NotFound
from service.hooks import Dispatcher, Outbox, signature
from service.jobs import JobStatus, OutputInfo
from service.queue import JobQueue
from service.settings import Settings
from service.tasks import running
from tests.conftest import WaitUntil
from tests.service.conftest import RESULT, Submit

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
URL = "http://target.example/hook"


class Target:
    """Notes what it gets, and answers what it is told to."""

    def __init__(self) -> None:
        self.got: list[httpx.Request] = []
        self.answers: Callable[[httpx.Request], int] = lambda _: 200
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        self.got.append(request)
        if request.url.host == "slow.example":
            await self.open.wait()
        return httpx.Response(self.answers(request))

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(request.content) for request in self.got]

    @property
    def events(self) -> list[str]:
        return [body["type"] for body in self.bodies]


@pytest.fixture
def target() -> Target:
    return Target()


@pytest.fixture
def outbox(redis: Redis, settings: Settings) -> Outbox:
    return Outbox(redis, settings)


@pytest.fixture
async def outcomes(target: Target, outbox: Outbox, queue: JobQueue) -> AsyncIterator[list[str]]:
    """A dispatcher at work, whose tries follow one another at once; what came of them."""
    counted: list[str] = []

    async def describe(job_id: str) -> dict[str, Any]:
        return (await queue.get(job_id)).model_dump(mode="json")

    async with httpx.AsyncClient(transport=httpx.MockTransport(target)) as client:
        delays = (0.01, 0.02)
        dispatcher = Dispatcher(outbox, client, SECRET, describe, counted.append, delays)
        async with running(dispatcher.run()):
            yield counted


def hook(url: str = URL, **more: Any) -> dict[str, Any]:
    return {"webhook": {"url": url, **more}}


@pytest.fixture
def finish(queue: JobQueue, output_info: OutputInfo) -> Callable[[], Any]:
    """`await finish()`: the next job from claim to result."""

    async def run() -> None:
        (lease,) = await queue.claim("worker", 1)
        assert await queue.succeed(lease, output_info, RESULT)

    return run


async def test_the_end_of_a_job_is_told_and_signed(
    submit: Submit, finish, target: Target, outcomes: list[str], wait_until: WaitUntil
) -> None:
    await submit(**hook(), metadata={"order": "17"})
    await finish()
    await wait_until(lambda: outcomes)
    (request,) = target.got
    verified = Webhook(SECRET).verify(request.content, dict(request.headers))
    assert verified["type"] == "job.succeeded"
    data = verified["data"]
    assert (data["id"], data["status"]) == ("job", "succeeded")
    assert data["options"]["metadata"] == {"order": "17"}
    assert request.headers["webhook-id"].startswith("msg_job_")
    assert outcomes == ["delivered"]
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(request.content + b" ", dict(request.headers))


def test_the_signature_is_that_of_the_standard() -> None:
    # The example of the specification's test suite.
    made = signature(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}')
    assert made == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_only_what_was_asked_for_is_told(
    submit: Submit, queue: JobQueue, target: Target, outcomes, finish, wait_until: WaitUntil
) -> None:
    await submit("both", **hook(events=["job.started", "job.canceled"]))
    await submit("end", **hook())
    await submit("none")
    for _ in range(3):
        await finish()
    await submit("late", **hook(events=["job.canceled"]))
    await queue.cancel("late")
    await wait_until(lambda: len(outcomes) == 3)
    told = sorted((body["data"]["id"], body["type"]) for body in target.bodies)
    assert told == [("both", "job.started"), ("end", "job.succeeded"), ("late", "job.canceled")]


async def test_what_fails_is_tried_again_with_the_same_body_and_id(
    submit: Submit, finish, target: Target, outcomes, outbox: Outbox, wait_until: WaitUntil
) -> None:
    target.answers = lambda _: 500 if len(target.got) < 3 else 204
    await submit(**hook())
    await finish()
    await wait_until(lambda: "delivered" in outcomes)
    assert outcomes == ["failed", "failed", "delivered"]
    assert len({request.content for request in target.got}) == 1
    assert len({request.headers["webhook-id"] for request in target.got}) == 1
    log = await outbox.log("job")
    assert [entry["status"] for entry in log] == [500, 500, 204]
    assert [entry["attempt"] for entry in log] == [1, 2, 3]


async def test_it_is_given_up_in_the_end(
    submit: Submit, finish, target: Target, outcomes, redis: Redis, wait_until: WaitUntil
) -> None:
    target.answers = lambda _: 503
    await submit(**hook())
    await finish()
    await wait_until(lambda: "given_up" in outcomes)
    assert outcomes == ["failed", "failed", "given_up"]
    assert await redis.zcard(keys.HOOKS) == 0


async def test_a_target_that_is_gone_is_told_no_more(
    submit: Submit,
    queue: JobQueue,
    redis: Redis,
    output_info: OutputInfo,
    target: Target,
    outcomes: list[str],
    wait_until: WaitUntil,
) -> None:
    target.answers = lambda _: 410
    events = ["job.started", "job.succeeded"]
    await submit(**hook(events=events))
    (lease,) = await queue.claim("worker", 1)
    await wait_until(lambda: outcomes)
    assert await queue.succeed(lease, output_info, RESULT)
    # A message that was in the outbox before is dropped as well.
    await redis.hset(keys.hook("old"), mapping={"job": "job", "event": "x", "at": "1"})
    await redis.expire(keys.hook("old"), 60)
    await redis.zadd(keys.HOOKS, {"old": 0})

    async def empty() -> bool:
        return await redis.zcard(keys.HOOKS) == 0

    await wait_until(empty)
    assert outcomes == ["gone"]
    assert target.events == ["job.started"]


async def test_redirects_are_not_followed(
    submit: Submit, finish, target: Target, outcomes, wait_until: WaitUntil
) -> None:
    target.answers = lambda _: 302
    await submit(**hook())
    await finish()
    await wait_until(lambda: "given_up" in outcomes)
    assert {str(request.url) for request in target.got} == {URL}


async def test_a_dead_target_delays_neither_jobs_nor_other_targets(
    submit: Submit, finish, queue, target: Target, outcomes, wait_until: WaitUntil
) -> None:
    target.open.clear()
    for number in range(40):
        await submit(f"slow{number}", **hook("http://slow.example/"))
        await finish()
    await submit("quick", **hook())
    await finish()
    assert (await queue.get("quick")).status is JobStatus.SUCCEEDED
    await wait_until(lambda: "delivered" in outcomes)
    assert [body["data"]["id"] for body in target.bodies][-1] == "quick"
    assert sum(request.url.host == "slow.example" for request in target.got) <= 4
    target.open.set()


async def test_a_dispatcher_that_ends_has_no_delivery_left(
    submit: Submit, finish, outbox: Outbox, redis: Redis, wait_until: WaitUntil
) -> None:
    asked, left = asyncio.Event(), asyncio.Event()
    outcomes: list[str] = []

    async def hang(_: httpx.Request) -> httpx.Response:
        asked.set()
        try:
            return await asyncio.Future()
        finally:
            await redis.ping()  # which takes a moment
            left.set()

    async def describe(job_id: str) -> dict[str, Any]:
        return {"id": job_id}

    async with httpx.AsyncClient(transport=httpx.MockTransport(hang)) as client:
        dispatcher = Dispatcher(outbox, client, SECRET, describe, outcomes.append)
        async with running(dispatcher.run()):
            await submit(**hook())
            await finish()
            await wait_until(asked.is_set)
        assert left.is_set()
    assert outcomes == []


async def test_a_message_whose_dispatcher_died_is_delivered_by_another(
    submit: Submit, finish, outbox: Outbox, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    await submit(**hook())
    await finish()
    monkeypatch.setattr(hooks, "_LEASE_S", 0.0)
    (first,) = await outbox.claim(5)
    (second,) = await outbox.claim(5)
    assert first == second
    monkeypatch.setattr(hooks, "_LEASE_S", 60.0)
    assert len(await outbox.claim(5)) == 1
    assert await outbox.claim(5) == []


async def test_the_last_message_is_sent_once_more(
    submit: Submit, finish, target: Target, outcomes, outbox: Outbox, wait_until: WaitUntil
) -> None:
    await submit(**hook())
    await finish()
    await wait_until(lambda: outcomes)
    assert await outbox.again("job") == target.got[0].headers["webhook-id"]
    await wait_until(lambda: len(outcomes) == 2)
    assert target.got[0].content == target.got[1].content
    with pytest.raises(NotFound, match="has sent no message"):
        await outbox.again("nobody")


async def test_a_job_that_was_deleted_is_told_by_its_id(
    submit: Submit, queue: JobQueue, target: Target, outcomes, wait_until: WaitUntil
) -> None:
    await submit(**hook())
    await queue.delete("job")
    await wait_until(lambda: outcomes)
    assert target.bodies[0]["type"] == "job.canceled"
    assert target.bodies[0]["data"] == {"id": "job", "status": "canceled"}


async def test_a_job_of_a_deleted_ones_id_has_messages_of_its_own(
    submit: Submit, queue: JobQueue, target: Target, outcomes, finish, wait_until: WaitUntil
) -> None:
    await submit(**hook())
    await queue.delete("job")
    await wait_until(lambda: outcomes)
    await submit(**hook())  # while the log of the deleted job lingers
    await finish()
    await wait_until(lambda: len(outcomes) == 2)
    assert target.events == ["job.canceled", "job.succeeded"]
    assert target.bodies[1]["data"]["status"] == "succeeded"
