"""The whole service over real HTTP and websockets, with the embedded model."""

from __future__ import annotations

import base64
import io
import itertools
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageOps

from tests.e2e.client import Client, Event, Preview, messages, statuses_of, steps_of
from tests.e2e.serving import SAMPLES, served

pytestmark = [pytest.mark.slow, pytest.mark.e2e, pytest.mark.timeout(240)]

PHOTO = (SAMPLES / "otter.jpg").read_bytes()
SIZE = (384, 256)


@pytest.fixture
def client(service_url: str) -> Iterator[Client]:
    made = Client(service_url)
    with made.http:
        yield made


def written(picture: Image.Image, format: str, **more: object) -> bytes:
    out = io.BytesIO()
    picture.save(out, format, **more)
    return out.getvalue()


def photo(width: int = 96, height: int = 80) -> Image.Image:
    """A small part of a photograph."""
    with Image.open(SAMPLES / "lake.jpg") as picture:
        return picture.crop((40, 60, 40 + width, 60 + height))


def test_a_photograph_sent_as_a_form_is_previewed_and_restored_at_its_size(client: Client) -> None:
    job_id = client.submit(PHOTO, steps=8, seed=7)
    with client.socket(job_id) as socket:
        received = list(messages(socket))
    events = [message for message in received if not isinstance(message, Preview)]
    previews = [message for message in received if isinstance(message, Preview)]

    assert socket.close_code == 1000
    assert statuses_of(events) == ["queued", "running", "succeeded"]
    assert steps_of(events) == list(range(1, 9))
    assert len(previews) >= 3
    assert [p.meta["step"] for p in previews] == sorted({p.meta["step"] for p in previews})
    for preview in previews:
        with Image.open(io.BytesIO(preview.picture)) as picture:
            picture.load()
            assert (picture.format, preview.meta["image_type"]) == ("JPEG", "image/jpeg")
            assert picture.size == (preview.meta["width"], preview.meta["height"])

    result = client.result(job_id)
    assert (result.format, result.mode, result.size) == ("PNG", "RGB", SIZE)
    # What follows a stream later sees the same, except pictures that newer ones have replaced.
    replay = client.events(job_id)
    assert [event for event in replay if event["type"] != "preview"] == events
    assert client.job(job_id)["seq"] == replay[-1]["seq"]


def test_a_job_sent_as_json_can_be_replayed_from_any_event(client: Client) -> None:
    body = {
        "image": {"base64": base64.b64encode(PHOTO).decode()},
        **{"steps": 2, "previews": False, "output_format": "webp"},
    }
    answer = client.http.post("/restore", json=body)
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]

    live = client.events(job_id)
    replay = client.events(job_id)

    assert [event["seq"] for event in replay] == list(range(1, len(replay) + 1))
    assert replay == live
    assert statuses_of(live) == ["queued", "running", "succeeded"]
    assert client.events(job_id, after=3) == live[3:]
    nothing = client.http.get(f"/restore/{job_id}/events", params={"starting_after": len(live)})
    assert nothing.status_code == 204
    result = client.result(job_id)
    assert (result.format, result.size) == ("WEBP", SIZE)


def test_two_jobs_at_once_advance_together(client: Client) -> None:
    image = written(photo(), "PNG")
    jobs = [client.submit(image, steps=12, previews=False, seed=seed) for seed in (1, 2)]
    logs = [client.events(job_id) for job_id in jobs]

    steps = [[event for event in log if event.get("stage") == "restoring"] for log in logs]
    assert [len(events) for events in steps] == [12, 12]
    # The order in which the server wrote them down, from the later start to the earlier end.
    begin = max(events[0]["at"] for events in steps)
    end = min(events[-1]["at"] for events in steps)
    merged = sorted(itertools.chain(*steps), key=lambda event: event["at"])
    shared = [event["job_id"] for event in merged if begin <= event["at"] <= end]
    assert min(shared.count(job_id) for job_id in jobs) >= 3
    # Both took every step of that time: never is one of them reported for a third time in a row.
    assert max(len(list(run)) for _, run in itertools.groupby(shared)) <= 2


def test_a_cancel_stops_a_job_between_two_steps(client: Client) -> None:
    job_id = client.submit(written(photo(), "PNG"), steps=100, previews=False)
    seen: list[Event] = []
    with client.socket(job_id) as socket:
        for message in messages(socket):
            assert not isinstance(message, Preview)
            seen.append(message)
            if steps_of([message]) == [1]:
                assert client.http.post(f"/restore/{job_id}/cancel").status_code == 200

    assert socket.close_code == 1000
    assert statuses_of(seen) == ["queued", "running", "canceling", "canceled"]
    assert steps_of(seen)[-1] < 100
    gone = client.http.get(f"/restore/{job_id}/result")
    assert (gone.status_code, gone.json()["code"]) == (410, "result_gone")


def png_of_stated_size(width: int, height: int) -> bytes:
    """A PNG whose header is sound and states any size, with hardly a pixel behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    chunks = (chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def animation() -> bytes:
    frames = [Image.new("RGB", (64, 64), color) for color in ("red", "blue")]
    return written(frames[0], "WEBP", save_all=True, append_images=frames[1:], duration=100)


@pytest.mark.parametrize(
    ("image", "status", "code"),
    [
        (lambda: b"these are words, not a picture\n", 415, "unsupported_image"),
        (lambda: written(photo(), "PNG")[:-200], 422, "invalid_image"),
        (lambda: png_of_stated_size(30_000, 30_000), 413, "image_too_large"),
        (animation, 422, "invalid_image"),
    ],
    ids=["text", "truncated", "huge", "animated"],
)
def test_what_cannot_be_restored_is_refused_with_its_reason(
    client: Client, image: Callable[[], bytes], status: int, code: str
) -> None:
    answer = client.http.post("/restore", files={"image": ("photo.png", image())})

    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["detail"]


def test_a_rotated_transparent_picture_comes_back_upright_with_its_transparency(
    client: Client,
) -> None:
    mask = Image.new("L", (96, 80), 255)
    ImageDraw.Draw(mask).rectangle((0, 0, 30, 20), fill=40)
    picture = photo()
    picture.putalpha(mask)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees to the right
    job_id = client.submit(written(picture, "PNG", exif=exif), steps=2)
    client.events(job_id)

    result = client.result(job_id)

    assert (result.mode, result.size) == ("RGBA", (80, 96))
    assert result.getchannel("A").tobytes() == mask.transpose(Image.Transpose.ROTATE_270).tobytes()
    assert not result.getexif()


def deep_gray() -> Image.Image:
    """Sixteen bits a sample."""
    gray = ImageOps.grayscale(photo())
    high = bytes(value for level in gray.tobytes() for value in (0, level))
    return Image.frombytes("I;16", gray.size, high)


@pytest.mark.parametrize(
    "image",
    [
        lambda: written(photo().convert("CMYK"), "JPEG", quality=95),
        lambda: written(deep_gray(), "PNG"),
    ],
    ids=["CMYK JPEG", "16-bit PNG"],
)
def test_pictures_of_other_depths_and_inks_are_restored_as_rgb(
    client: Client, image: Callable[[], bytes]
) -> None:
    job_id = client.submit(image(), steps=2)

    assert statuses_of(client.events(job_id))[-1] == "succeeded"
    result = client.result(job_id)
    assert (result.mode, result.size) == ("RGB", (96, 80))


def test_a_job_outlives_the_kill_of_its_worker_and_ends_once(tmp_path: Path) -> None:
    with served(tmp_path, "--lease-s", "2") as service:
        client = Client(service.url)
        with client.http:
            job_id = client.submit(written(photo(), "PNG"), steps=10, previews=False)
            first = service.part("worker")
            seen: list[Event] = []
            with client.socket(job_id) as socket:
                for message in messages(socket):
                    assert not isinstance(message, Preview)
                    seen.append(message)
                    if steps_of([message]) and steps_of(seen) == [1, 2]:
                        first.kill()
            assert socket.close_code == 1000
            assert service.part("worker").pid != first.pid

            again = ["queued", "running"]
            assert statuses_of(seen) == ["queued", "running", *again, "succeeded"]
            assert [event["type"] for event in seen].count("output") == 1
            assert client.events(job_id) == seen
            job = client.job(job_id)
            assert (job["status"], job["attempt"]) == ("succeeded", 2)
            assert client.result(job_id).size == (96, 80)
            counted = client.http.get("/metrics").text.splitlines()
            assert 'instantir_jobs_total{status="succeeded"} 1.0' in counted
