"""What a client of the service does, over real HTTP and websockets."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import httpx
from PIL import Image
from websockets.sync.client import ClientConnection, connect

Event = dict[str, Any]

PREVIEW_FRAME = 4
_SILENCE_S = 60.0  # heartbeats come more often, even on a busy machine


@dataclass(frozen=True, slots=True)
class Preview:
    """One binary frame of the websocket, taken apart."""

    meta: Event
    picture: bytes


class Client:
    """One client of one service; every call fails the test when it is refused."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.http = httpx.Client(base_url=url, timeout=_SILENCE_S, trust_env=False)

    def submit(self, image: bytes, **options: object) -> str:
        """The id of a job sent as a form."""
        data = {name: str(value) for name, value in options.items()}
        answer = self.http.post("/restore", files={"image": ("photo", image)}, data=data)
        assert answer.status_code == 202, answer.text
        job_id = answer.json()["id"]
        assert answer.headers["location"] == f"/restore/{job_id}"
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        """The job as it is now."""
        answer = self.http.get(f"/restore/{job_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def events(self, job_id: str, after: int = 0) -> list[Event]:
        """Every event from `after` to the end of the job, by SSE."""
        where = f"/restore/{job_id}/events"
        found: list[Event] = []
        number: Event = {}
        with self.http.stream("GET", where, headers={"last-event-id": str(after)}) as answer:
            assert answer.status_code == 200
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    number = {"id": int(value)}
                elif name == "data":
                    found.append({**number, **json.loads(value)})
                    number = {}
        logged = [event for event in found if "id" in event]
        assert [event.pop("id") for event in logged] == [event["seq"] for event in logged]
        return logged

    def socket(self, job_id: str) -> AbstractContextManager[ClientConnection]:
        """The websocket of the job."""
        address = self._url.replace("http", "ws", 1)
        return connect(f"{address}/restore/{job_id}/progress", proxy=None, open_timeout=_SILENCE_S)

    def result(self, job_id: str) -> Image.Image:
        """The finished picture."""
        answer = self.http.get(f"/restore/{job_id}/result")
        assert answer.status_code == 200, answer.text
        picture = Image.open(io.BytesIO(answer.content))
        picture.load()
        return picture


def messages(socket: ClientConnection) -> Iterator[Event | Preview]:
    """What the websocket brings of the job's log, until the service closes it."""
    for frame in socket:
        if isinstance(frame, str):
            event = json.loads(frame)
            if "seq" in event:  # an eta, which comes when it likes, has none
                yield event
            continue
        kind, length = struct.unpack(">II", frame[:8])
        assert kind == PREVIEW_FRAME
        yield Preview(json.loads(frame[8 : 8 + length]), frame[8 + length :])


def steps_of(events: list[Event]) -> list[int]:
    """The denoising steps that the events report, in order."""
    return [event["step"] for event in events if event.get("stage") == "restoring"]


def statuses_of(events: list[Event]) -> list[str]:
    """The statuses that the events report, in order."""
    return [event["status"] for event in events if event["type"] == "status"]
