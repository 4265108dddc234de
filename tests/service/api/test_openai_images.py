"""The official client of OpenAI, as it is, against a live server."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from service.jobs import TERMINAL, ErrorInfo
from service.queue import JobQueue
from service.settings import Settings
from tests.conftest import WaitUntil
from tests.service.api.conftest import serve

READY = {"ready": True, "slots": 1, "running": 0, "model": "nano", "fingerprint": "f"}
FRAMES = [b"\xff\xd8 one", b"\xff\xd8 two", b"\xff\xd8 three", b"\xff\xd8 four"]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"disconnect_grace_s": 0.1})


@pytest.fixture
async def client(live, queue: JobQueue) -> AsyncIterator[AsyncOpenAI]:
    await queue.beat("one", READY)
    async with of(live) as made:
        yield made


def of(live: Any, key: str = "x") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"http://{live.address}/v1", api_key=key, max_retries=0)


@pytest.fixture
def claimed(worker, queue: JobQueue, wait_until: WaitUntil):
    """`await claimed()`: the job of the request that is on its way."""

    async def take():
        async def waits() -> bool:
            return (await queue.depth())["normal"] > 0

        await wait_until(waits)
        return await worker.claim()

    return take


@pytest.fixture
def asking(client: AsyncOpenAI, photo: bytes):
    """`asking(...)`: an edit on its way."""

    def ask(**more: Any) -> asyncio.Task:
        image = ("photo.png", photo, "image/png")
        call = client.images.edit(image=image, prompt="a bird", **more)
        return asyncio.create_task(call)

    return ask


async def test_an_edit_returns_the_restored_picture(asking, claimed, worker) -> None:
    asked = asking(output_format="webp", output_compression=70, quality="high")
    lease = await claimed()
    await worker.succeed(lease, b"restored")
    answer = await asked
    assert base64.b64decode(answer.data[0].b64_json) == b"restored"
    assert (answer.size, answer.quality, answer.output_format) == ("24x16", "high", "webp")
    options = lease.options
    assert (options.prompt, options.preset) == ("a bird", "faithful")
    assert (options.output_format, options.output_quality) == ("webp", 70)


async def test_what_is_ours_alone_goes_in_the_extra_body(asking, claimed, worker) -> None:
    asked = asking(extra_body={"seed": 7, "steps": 3, "preset": "fast"})
    lease = await claimed()
    await worker.succeed(lease)
    await asked
    assert (lease.options.seed, lease.options.steps, lease.options.preset) == (7, 3, "fast")


async def test_an_edit_that_takes_too_long_says_so_and_goes_on(
    asking, claimed, queue, monkeypatch
) -> None:
    monkeypatch.setattr("service.api.openai_images._LONGEST_S", 0.5)
    asked = asking()
    lease = await claimed()
    with pytest.raises(openai.BadRequestError, match="after all this waiting; it goes on"):
        await asked
    assert (await queue.get(lease.job_id)).status not in TERMINAL


async def test_true_previews_are_streamed_while_it_runs(asking, claimed, worker, queue) -> None:
    stream = await asking(stream=True, partial_images=2)
    events = aiter(stream)
    lease = await claimed()
    seen = []
    for step in (1, 2):
        await worker.step(lease, step, FRAMES[step])
        seen.append(await asyncio.wait_for(anext(events), 10))
    await worker.succeed(lease, b"restored")
    last = await asyncio.wait_for(anext(events), 10)
    assert [event.type for event in seen] == ["image_edit.partial_image"] * 2
    assert [event.partial_image_index for event in seen] == [0, 1]
    assert [base64.b64decode(event.b64_json) for event in seen] == FRAMES[1:3]
    assert seen[0].output_format == "jpeg"
    assert last.type == "image_edit.completed"
    assert base64.b64decode(last.b64_json) == b"restored"
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_no_more_partial_images_come_than_were_asked_for(asking, claimed, worker) -> None:
    stream = await asking(stream=True, partial_images=1)
    lease = await claimed()
    for step in (1, 2):
        await worker.step(lease, step, FRAMES[step])
    await worker.succeed(lease)
    kinds = [event.type async for event in stream]
    assert kinds == ["image_edit.partial_image", "image_edit.completed"]


async def test_a_failure_in_the_middle_of_a_stream_is_an_error(
    asking, claimed, queue: JobQueue
) -> None:
    stream = await asking(stream=True)
    await queue.fail(await claimed(), ErrorInfo(code="out_of_memory", message="too large"))
    with pytest.raises(openai.APIError, match="out_of_memory: too large"):
        [event async for event in stream]


async def test_a_failure_is_an_error_of_the_server(asking, claimed, queue: JobQueue) -> None:
    asked = asking()
    await queue.fail(await claimed(), ErrorInfo(code="out_of_memory", message="too large"))
    with pytest.raises(openai.InternalServerError) as caught:
        await asked
    assert caught.value.code == "job_failed"
    assert "too large" in caught.value.message


@pytest.mark.parametrize(
    ("more", "param", "words"),
    [
        ({"size": "1024x1024"}, "size", "keeps the size of its picture, 24x16"),
        ({"n": 2}, "n", "'1'"),
        ({"response_format": "url"}, "response_format", "b64_json"),
        ({"output_format": "gif"}, "output_format", "'png', 'jpeg' or 'webp'"),
        ({"extra_body": {"steps": 0}}, "steps", "greater than or equal to 1"),
        ({"mask": ("m.png", b"x", "image/png")}, "mask", "not supported"),
        ({"stream": True, "partial_images": 9}, "partial_images", "less than or equal to 3"),
    ],
)
async def test_what_cannot_be_done_is_a_bad_request_that_names_it(
    asking, more: dict, param: str, words: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await asking(**more)
    assert caught.value.param == param
    assert words in caught.value.message
    assert caught.value.type == "invalid_request_error"


async def test_a_damaged_picture_is_a_bad_request(client: AsyncOpenAI, photo: bytes) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await client.images.edit(image=("a.png", photo[:60]), prompt="")
    assert caught.value.code == "invalid_image"


async def test_an_unknown_model_is_not_found_and_their_own_names_pass(
    asking, claimed, worker
) -> None:
    with pytest.raises(openai.NotFoundError, match="there is nano"):
        await asking(model="another")
    asked = asking(model="gpt-image-1")
    await worker.succeed(await claimed())
    await asked


async def test_a_full_queue_is_a_rate_limit(settings: Settings, photo: bytes) -> None:
    small = settings.model_copy(update={"queue_limit": 1})
    async with serve(small) as live, of(live) as client:
        async with httpx.AsyncClient() as other:
            await other.post(f"http://{live.address}/restore", files={"image": photo})
        with pytest.raises(openai.RateLimitError) as caught:
            await client.images.edit(image=("a.png", photo), prompt="")
    assert caught.value.code == "queue_full"
    assert caught.value.response.headers["x-should-retry"] == "true"
    assert int(caught.value.response.headers["retry-after"]) >= 1


async def test_keys_are_the_keys_of_the_service(settings: Settings) -> None:
    keyed = settings.model_copy(update={"api_keys": {"ann's key": "ann"}})
    async with serve(keyed) as live, of(live, "wrong") as wrong, of(live, "ann's key") as right:
        with pytest.raises(openai.AuthenticationError):
            await wrong.models.list()
        assert (await right.models.list()).data == []


async def test_the_models_that_are_ready_are_listed(client: AsyncOpenAI, queue: JobQueue) -> None:
    await queue.beat("two", {**READY, "model": "loading", "ready": False})
    assert [model.id async for model in client.models.list()] == ["nano"]
    assert (await client.models.retrieve("nano")).owned_by == "instantir"
    await queue.beat("three", {**READY, "model": "models/own"})
    assert (await client.models.retrieve("models/own")).id == "models/own"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("loading")


async def test_who_leaves_cancels(client, asking, queue, claimed, wait_until) -> None:
    asked = asking(timeout=0.5)
    lease = await claimed()
    with pytest.raises(openai.APITimeoutError):
        await asked

    async def canceling() -> bool:
        await queue.sweep()
        return (await queue.get(lease.job_id)).status == "canceling"

    await wait_until(canceling)
