"""Following a job on the wire: server-sent events and websocket, through a real server."""

import asyncio
import base64
import json
import struct
from collections.abc import AsyncIterator

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from service import logs
from service.api.state import Timing

FRAME = b"\xff\xd8 a picture \xff\xd9"
UNKNOWN = "0b6c1c0e-3f0e-4a51-9d0b-0f6f0c9d2a11"


@pytest.fixture
async def client(live) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://{live.address}") as made:
        yield made


@pytest.fixture
async def job_id(client: httpx.AsyncClient, photo: bytes) -> str:
    answer = await client.post("/restore", files={"image": photo})
    return answer.json()["id"]


def open_streams(live, kind: str) -> float:
    return live.app.state.services.metrics.streams_open.labels(kind)._value.get()


def parse(text: str) -> list[dict]:
    """The events of a stream, each checked against its own id and type."""
    events = []
    for block in text.split("\n\n"):
        if block.startswith("id: "):
            lines = dict(line.split(": ", 1) for line in block.splitlines())
            event = json.loads(lines["data"])
            assert (lines["id"], lines["event"]) == (str(event["seq"]), event["type"])
            events.append(event)
    return events


async def receive_all(socket: ClientConnection) -> list[dict]:
    """Every numbered message until the server closes."""
    messages = []
    try:
        while True:
            messages.append(await receive(socket))
    except ConnectionClosed:
        return messages


async def receive(socket: ClientConnection) -> dict:
    """The next message that has a number, as an eta has none and comes when it likes.

    A binary one as its JSON part with `picture`.
    """
    while True:
        message = await socket.recv()
        event = json.loads(message) if isinstance(message, str) else unpack(message)
        if "seq" in event:
            return event


def unpack(message: bytes) -> dict:
    kind, length = struct.unpack_from(">II", message)
    assert kind == 4
    return {**json.loads(message[8 : 8 + length]), "picture": message[8 + length :]}


STORY = ["status", "status", "progress", "preview", "progress", "output", "status"]


async def test_events_are_replayed_from_the_beginning_and_the_stream_ends(
    client, job_id, worker
) -> None:
    await worker.run(FRAME)

    answer = await client.get(f"/restore/{job_id}/events")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.startswith(": ok\n\n")
    events = parse(answer.text)
    assert [event["type"] for event in events] == STORY
    assert [event["seq"] for event in events] == list(range(1, 8))
    assert {event["job_id"] for event in events} == {job_id}
    assert (events[0]["status"], events[-1]["status"]) == ("queued", "succeeded")
    assert events[2]["value"] == 0.5
    picture = events[3]["image"].removeprefix("data:image/jpeg;base64,")
    assert base64.b64decode(picture) == FRAME


async def test_events_arrive_while_the_job_runs(client, job_id, worker) -> None:
    seen: list[str] = []
    async with client.stream("GET", f"/restore/{job_id}/events") as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == ": ok"  # before anything happens
        lease = await worker.claim()
        async for line in lines:
            if line.startswith("data: "):
                event = json.loads(line.removeprefix("data: "))
                if "seq" not in event:  # an eta, which comes when it likes
                    continue
                seen.append(event["type"])
                if event.get("status") == "running":
                    await worker.step(lease)
                elif event["type"] == "progress":
                    await worker.succeed(lease)
    assert seen == ["status", "status", "progress", "output", "status"]


async def test_silence_is_filled_with_heartbeats(client, job_id, worker) -> None:
    comments = 0
    async with client.stream("GET", f"/restore/{job_id}/events") as answer:
        async for line in answer.aiter_lines():
            comments += line == ": heartbeat"
            if comments == 2:
                break
    assert comments == 2


@pytest.mark.parametrize("how", ["query", "header", "the later of both"])
async def test_events_resume_after_the_last_one_seen(client, job_id, worker, how: str) -> None:
    await worker.run(FRAME)
    params = {"query": {"starting_after": 4}, "the later of both": {"starting_after": 1}}
    headers = {"Last-Event-ID": "4"} if how != "query" else {}

    answer = await client.get(
        f"/restore/{job_id}/events", params=params.get(how, {}), headers=headers
    )

    assert [event["seq"] for event in parse(answer.text)] == [5, 6, 7]


async def test_a_finished_stream_tells_a_browser_not_to_come_back(client, job_id, worker) -> None:
    await worker.run()

    answer = await client.get(f"/restore/{job_id}/events", headers={"Last-Event-ID": "6"})

    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("value", ["-1", "abc", "1.5", ""])
async def test_a_bad_starting_point_is_refused(client, job_id, value: str) -> None:
    asked = await client.get(f"/restore/{job_id}/events", params={"starting_after": value})
    resumed = await client.get(f"/restore/{job_id}/events", headers={"Last-Event-ID": value})

    for answer, pointer in ((asked, "/starting_after"), (resumed, "/last-event-id")):
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_a_websocket_gets_texts_and_binary_previews_and_a_clean_close(
    live, client, job_id, worker
) -> None:
    await worker.run(FRAME)

    async with connect(f"ws://{live.address}/restore/{job_id}/progress") as socket:
        messages = await receive_all(socket)

    assert socket.close_code == 1000
    assert [message.get("type", "preview") for message in messages] == STORY
    assert [message["seq"] for message in messages] == list(range(1, 8))
    assert messages[3] == {
        "job_id": job_id,
        "seq": 4,
        "step": 1,
        "steps": 2,
        "width": 24,
        "height": 16,
        "image_type": "image/jpeg",
        "picture": FRAME,
    }


async def test_a_websocket_follows_live(live, client, job_id, worker) -> None:
    async with connect(f"ws://{live.address}/restore/{job_id}/progress") as socket:
        assert (await receive(socket))["status"] == "queued"
        lease = await worker.claim()
        assert (await receive(socket))["status"] == "running"
        await worker.step(lease, 1, FRAME)
        assert (await receive(socket))["step"] == 1
        assert (await receive(socket))["picture"] == FRAME
        await worker.succeed(lease)
        rest = await receive_all(socket)
    assert [message["type"] for message in rest] == ["output", "status"]
    assert socket.close_code == 1000


async def test_a_websocket_resumes(live, client, job_id, worker) -> None:
    await worker.run(FRAME)

    url = f"ws://{live.address}/restore/{job_id}/progress?starting_after=5"
    async with connect(url) as socket:
        messages = await receive_all(socket)

    assert [message["seq"] for message in messages] == [6, 7]


@pytest.mark.parametrize(
    ("path", "code", "words"),
    [
        (f"{UNKNOWN}/progress", 4404, "no job"),
        ("latest/progress", 4404, "no job"),
        ("JOB/progress?starting_after=soon", 4400, "'soon'"),
        ("JOB/progress?starting_after=-1", 4400, "'-1'"),
        ("JOB/progress?starting_after=", 4400, "''"),
    ],
)
async def test_a_websocket_that_asks_wrongly_is_closed_with_the_reason(
    live, client, job_id, path: str, code: int, words: str
) -> None:
    url = f"ws://{live.address}/restore/{path.replace('JOB', job_id)}"
    async with connect(url) as socket:
        assert await receive_all(socket) == []

    assert socket.close_code == code
    assert words in (socket.close_reason or "")


async def test_a_websocket_is_told_to_come_back_when_redis_is_away(live_without_redis) -> None:
    async with connect(f"ws://{live_without_redis.address}/restore/{UNKNOWN}/progress") as socket:
        assert await receive_all(socket) == []

    assert socket.close_code == 1013


async def test_a_client_that_leaves_is_forgotten(live, client, job_id, wait_until) -> None:
    async with connect(f"ws://{live.address}/restore/{job_id}/progress") as socket:
        await socket.recv()
        await socket.send("hello?")
        assert open_streams(live, "websocket") == 1
    async with client.stream("GET", f"/restore/{job_id}/events") as answer:
        await anext(answer.aiter_lines())
        await wait_until(lambda: open_streams(live, "sse") == 1)

    await wait_until(lambda: open_streams(live, "websocket") == open_streams(live, "sse") == 0)


@pytest.mark.parametrize("kind", ["websocket", "sse"])
async def test_a_client_that_takes_nothing_is_dropped_and_slows_nobody(
    live, client, job_id, worker, wait_until, kind: str, capsys
) -> None:
    logs.configure("INFO", json_lines=False)
    large = bytes(2_000_000)
    url = f"ws://{live.address}/restore/{job_id}/progress"
    lease = await worker.claim()
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port, limit=1024)
    upgrade = (
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )
    path, extra = ("progress", upgrade) if kind == "websocket" else ("events", "")
    writer.write(f"GET /restore/{job_id}/{path} HTTP/1.1\r\nhost: api\r\n{extra}\r\n".encode())
    await wait_until(lambda: open_streams(live, kind) == 1)
    async with connect(url, max_size=None) as healthy:
        await wait_until(lambda: open_streams(live, "websocket") == 1 + (kind == "websocket"))
        received = 0
        for step in range(1, 13):
            await worker.step(lease, step, large)
            while isinstance(await healthy.recv(), str):
                pass
            received += 1
        await wait_until(
            lambda: open_streams(live, "websocket") == 1 and open_streams(live, "sse") == 0
        )
        await worker.succeed(lease)
        await receive_all(healthy)
    writer.transport.abort()

    assert received == 12
    assert healthy.close_code == 1000
    said = capsys.readouterr().err
    assert ("took nothing in time" in said) is (kind == "sse")
    assert "ERROR" not in said


def test_clients_are_told_of_life_every_ten_seconds_and_given_ten() -> None:
    assert Timing().heartbeat_s <= 10
    assert Timing().send_s == 10
