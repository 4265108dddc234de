"""Three API processes behind a real nginx and a real HAProxy, with the configurations we ship."""

from __future__ import annotations

import asyncio
import io
import logging
import signal
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import anyio
import httpx
import pytest
from PIL import Image

from loadtests.processes import until_ok
from loadtests.visits import doubled, missed
from service.client import AsyncClient
from service.settings import Settings
from tests.conftest import WaitUntil
from tests.deploy.balancing import (
    CONFIGURATIONS,
    OPEN,
    PICTURE,
    Fleet,
    balancer,
    checking,
    configuration,
    fleet_in,
    program,
)
from tests.deploy.followers import KINDS, following
from tests.faults.fake import closed_gate, turnstile

logger = logging.getLogger(__name__)
pytestmark = pytest.mark.timeout(180)

LIMIT = int(Settings.model_fields["max_upload_bytes"].default)
JOBS, FOLLOWERS_EACH, STEPS = 40, 5, 60
KILLS, STEPS_AROUND_A_KILL = 6, 16  # of both workers, each of several jobs
HURRY = 10
HANGING_S = 20.0  # longer than either balancer waits for an answer that does not come


def _padded(size: int) -> bytes:
    """The picture as a PNG of so many bytes, by a chunk that decoders skip."""
    end = PICTURE.rindex(b"IEND") - 4
    body = b"prVt" + bytes(size - len(PICTURE) - 12)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return PICTURE[:end] + chunk + PICTURE[end:]


def _need(name: str) -> None:
    if program(name) is None:
        pytest.skip(f"needs {name}")


@pytest.fixture(scope="module")
def shared_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One fleet for all tests of this file."""
    with fleet_in(tmp_path_factory.mktemp("fleet")) as fleet:
        yield fleet


@pytest.fixture(scope="module", params=sorted(CONFIGURATIONS))
def address(
    request: pytest.FixtureRequest,
    shared_fleet: Fleet,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Address of a balancer before the fleet."""
    _need(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    with balancer(request.param, folder, [api.address for api in shared_fleet.apis]) as url:
        yield url


@pytest.fixture
def fleet(shared_fleet: Fleet) -> Iterator[Fleet]:
    """The fleet, left whole whatever a test did to it."""
    yield shared_fleet
    shared_fleet.mend()


async def _submit(address: str, **options: Any) -> str:
    async with AsyncClient(address) as client:
        return (await client.submit(PICTURE, **options))["id"]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_balancer_accepts_its_configuration(name: str, tmp_path: Path) -> None:
    _need(name)
    path = configuration(name, tmp_path, 8000, [f"127.0.0.{host}:8000" for host in (1, 2, 3)])
    done = subprocess.run(checking(name, path), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "eventsource"])
async def test_a_stream_survives_the_death_of_the_api_that_serves_it(
    fleet: Fleet, address: str, kind: str, wait_until: WaitUntil
) -> None:
    counted = "websocket" if kind == "websocket" else "sse"
    async with AsyncExitStack() as streams:
        with closed_gate(fleet.model, at="step"):
            job_id = await _submit(address, steps=8)
            seen = await streams.enter_async_context(following(address, kind, job_id))
            serving = await wait_until(lambda: fleet.serving(counted))
            await wait_until(lambda: (2, "status") in seen)
            serving.end()
            await wait_until(lambda: fleet.serving(counted))
    log = fleet.log(job_id)
    assert (missed(log, seen), doubled(seen)) == (0, 0)
    assert seen[-1] == log[-1]


@pytest.mark.slow
async def test_no_event_is_missed_or_doubled_by_200_streams_while_apis_are_killed(
    fleet: Fleet, address: str, wait_until: WaitUntil
) -> None:
    seen: dict[tuple[str, int], Any] = {}
    broken = 0.0
    async with AsyncExitStack() as streams:
        with turnstile(fleet.model, at="step") as let_pass:

            async def some_steps() -> None:
                """More events, of which a part may come after this."""
                enough = fleet.logged(jobs) + STEPS_AROUND_A_KILL
                let_pass(STEPS_AROUND_A_KILL)
                await wait_until(lambda: fleet.logged(jobs) >= enough, 30)

            jobs = [await _submit(address, steps=STEPS) for _ in range(JOBS)]
            for job_id in jobs:
                for number in range(FOLLOWERS_EACH):
                    stream = following(address, KINDS[len(seen) % 2], job_id)
                    seen[job_id, number] = await streams.enter_async_context(stream)
            await wait_until(lambda: all(seen.values()), 30)
            for kill in range(KILLS):
                victim = fleet.apis[kill % len(fleet.apis)]
                broken += sum([await victim.metric(OPEN, kind=kind) for kind in KINDS])
                await some_steps()
                victim.end()
                await some_steps()
                victim.start()
                await victim.back()
            assert len(fleet.log(jobs[-1])) < STEPS, "the jobs ended before the last kill"
    logs = {job_id: fleet.log(job_id) for job_id in jobs}
    events = sum(map(len, seen.values()))
    logger.info("%d streams broken %d times, %d events", len(seen), broken, events)
    assert broken >= len(seen)
    assert sum(missed(logs[job_id], found) for (job_id, _), found in seen.items()) == 0
    assert sum(map(doubled, seen.values())) == 0


@pytest.mark.slow
async def test_a_rolling_restart_under_load_loses_no_submission(
    fleet: Fleet, address: str, wait_until: WaitUntil
) -> None:
    done: list[str] = []
    pauses: list[float] = []
    over = asyncio.Event()

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await anyio.sleep_until(anyio.current_time() + seconds)

    async def eight_more() -> None:
        enough = len(done) + 8
        await wait_until(lambda: len(done) >= enough, 30)

    async def submit_and_wait() -> None:
        async with AsyncClient(address, sleep=pause) as client:
            while not over.is_set():
                restored = await client.restore(PICTURE, steps=2)
                done.append(restored.job["id"])

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(submit_and_wait())
        for api in fleet.apis:
            await eight_more()
            await api.restart(signal.SIGTERM)
        await eight_more()
        over.set()
    logger.info("%d jobs, %d requests sent again", len(done), len(pauses))
    outputs = [[kind for _, kind in fleet.log(job_id)].count("output") for job_id in done]
    assert outputs == [1] * len(done)


@pytest.mark.slow
async def test_an_upload_of_the_largest_size_is_restored(fleet: Fleet, address: str) -> None:
    async with AsyncClient(address) as client:
        restored = await client.restore(_padded(LIMIT), steps=2)
    with Image.open(io.BytesIO(restored.data)) as image:
        assert image.size == (32, 24)


@pytest.mark.slow
@pytest.mark.parametrize("size", [LIMIT + 1, 2 * LIMIT])
async def test_a_larger_upload_is_refused_as_a_problem(
    fleet: Fleet, address: str, size: int
) -> None:
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        answer = await client.put(f"/restore/{uuid4()}", files={"image": _padded(size)})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "image_too_large"


@pytest.mark.slow
async def test_one_byte_too_many_is_refused_by_the_service_itself(
    fleet: Fleet, address: str
) -> None:
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        answer = await client.put(f"/restore/{uuid4()}", files={"image": _padded(LIMIT + 1)})
    assert answer.json()["detail"] == f"the image has {LIMIT + 1} bytes; at most {LIMIT} are taken"


@pytest.mark.slow
async def test_previews_come_as_binary_frames(fleet: Fleet, address: str) -> None:
    job_id = await _submit(address, steps=8)
    async with following(address, "websocket", job_id) as seen:
        pass
    assert "preview" in [kind for _, kind in seen]


@pytest.mark.slow
async def test_events_come_before_the_job_has_ended(
    fleet: Fleet, address: str, wait_until: WaitUntil
) -> None:
    async with AsyncExitStack() as streams:
        with closed_gate(fleet.model, at="step"):
            job_id = await _submit(address)
            seen = await streams.enter_async_context(following(address, "sse", job_id))
            await wait_until(lambda: (2, "status") in seen, 5)
            assert fleet.log(job_id)[-1][1] != "output"


@pytest.mark.slow
async def test_an_api_that_hangs_holds_up_no_others_and_serves_again_later(
    fleet: Fleet, address: str, wait_until: WaitUntil
) -> None:
    hanging = fleet.apis[0]
    took: list[float] = []

    async def ask(client: AsyncClient) -> None:
        for _ in range(10):
            began = time.monotonic()
            await client.submit(PICTURE, steps=2)
            took.append(time.monotonic() - began)

    async with AsyncClient(address) as client:
        before = await hanging.metric("instantir_requests_total", route="/restore", method="GET")
        hanging.send(signal.SIGSTOP)
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(ask(client))
        hanging.send(signal.SIGCONT)

        async def serves_again() -> bool:
            assert [job async for job in client.jobs()]
            now = await hanging.metric("instantir_requests_total", route="/restore", method="GET")
            return now > before

        await wait_until(serves_again, 20)
    logger.info("%d submissions, the slowest took %.1f s", len(took), max(took))
    assert max(took) < HANGING_S
    assert sum(seconds < 1 for seconds in took) >= 30


@pytest.mark.slow
async def test_a_post_whose_api_dies_is_repeated_by_its_key_into_the_same_job(
    fleet: Fleet, address: str, wait_until: WaitUntil
) -> None:
    serving, *others = fleet.apis
    before = fleet.jobs()
    headers = {"idempotency-key": str(uuid4()), "prefer": "wait=30"}

    async def ask() -> httpx.Response:
        return await client.post("/restore", files={"image": PICTURE}, headers=headers)

    async def repeated() -> httpx.Response | None:
        try:
            answer = await ask()
        except httpx.TransportError:  # refused before all of it was read, which resets it
            return None
        return answer if answer.is_success else None

    for api in others:
        api.end()
    await asyncio.to_thread(until_ok, f"{address}/livez")  # the balancer knows that one serves
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        with closed_gate(fleet.model, at="step"):
            first = asyncio.create_task(ask())
            await wait_until(lambda: fleet.jobs() - before)
            serving.end()
            broken = await first
            others[0].start()
            await others[0].back()
        again = await wait_until(repeated, 20)
    assert broken.status_code in {502, 503}
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["status"] == "succeeded"
    assert fleet.jobs() - before == {again.json()["id"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("accept", ["application/json", "image/png"])
async def test_the_longest_wait_is_not_cut(
    fleet: Fleet, tmp_path: Path, name: str, accept: str
) -> None:
    """Wait and limits are a tenth of what they are."""
    _need(name)
    wait = f"wait={Settings.model_fields['max_wait_s'].default / HURRY:g}"
    addresses = [api.address for api in fleet.apis]
    with closed_gate(fleet.model, at="step"), balancer(name, tmp_path, addresses, HURRY) as url:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            headers = {"prefer": wait, "accept": accept}
            answer = await client.post("/restore", files={"image": PICTURE}, headers=headers)
    assert (answer.status_code, answer.json()["status"]) == (202, "running")


@pytest.mark.slow
async def test_without_any_api_the_balancer_says_so_as_the_api_would(
    fleet: Fleet, address: str
) -> None:
    for api in fleet.apis:
        api.end()
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        answer = await client.get("/restore")
    fleet.mend()
    await asyncio.to_thread(until_ok, f"{address}/livez")
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["code"], problem["retryable"]) == ("server_unavailable", True)
    assert problem["request_id"]
