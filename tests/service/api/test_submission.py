"""Every way a submission can be wrong, with the status, the code and the named limit."""

import asyncio
import base64
import io
import json
import struct
import zlib
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from PIL import Image
from redis.asyncio import Redis

from service import keys
from service.api.app import create_app
from service.settings import Settings
from tests.service.api.expect import assert_problem

LIMIT_BYTES = 100_000


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"max_upload_bytes": LIMIT_BYTES, "max_pixels": 90_000, "max_side_px": 1000}
    )


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def animation() -> bytes:
    frames = [Image.new("RGB", (32, 32), color) for color in ("red", "green", "blue", "white")]
    out = io.BytesIO()
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:])
    return out.getvalue()


def noise(size: tuple[int, int], format: str) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 90).convert("RGB").save(out, format)
    return out.getvalue()


BAD_IMAGES = {
    "empty": (b"", 422, "invalid_image", "0 bytes"),
    "text": (b"hello, I am a photograph", 415, "unsupported_image", "must be JPEG, PNG or WebP"),
    "tiff": (noise((32, 32), "TIFF"), 415, "unsupported_image", "TIFF"),
    "gif": (noise((32, 32), "GIF"), 415, "unsupported_image", "GIF"),
    "truncated": (noise((64, 64), "JPEG")[:900], 422, "invalid_image", "cut short"),
    "damaged": (b"\x89PNG\r\n\x1a\n" + bytes(64), 422, "invalid_image", "damaged"),
    "animated": (animation(), 422, "invalid_image", "4 frames"),
    "tiny": (noise((15, 40), "PNG"), 422, "invalid_image", "15x40 px; each side must have at"),
    "no pixels": (png(0, 0), 422, "invalid_image", ""),
    "bomb": (png(30_000, 30_000), 413, "image_too_large", "30000x30000 px; a side may have at"),
    "many pixels": (png(400, 300), 413, "image_too_large", "120000 pixels; at most 90000"),
    "many bytes": (bytes(LIMIT_BYTES + 1), 413, "image_too_large", "100001 bytes; at most 100000"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
@pytest.mark.parametrize("form", ["multipart", "json"])
async def test_a_bad_image_is_refused(api: httpx.AsyncClient, kind: str, form: str) -> None:
    data, status, code, words = BAD_IMAGES[kind]
    if form == "multipart":
        answer = await api.post("/restore", files={"image": ("photo", data)})
    else:
        body = {"image": {"base64": base64.b64encode(data).decode()}}
        answer = await api.post("/restore", json=body)

    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert words in answer.json()["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("steps", "0", "greater than or equal to 1"),
        ("steps", "101", "less than or equal to 100"),
        ("steps", "many", "valid integer"),
        ("guidance_scale", "21", "less than or equal to 20"),
        ("guidance_scale", "nan", "finite"),
        ("preview_start", "1.5", "less than or equal to 1"),
        ("seed", "-1", "greater than or equal to 0"),
        ("seed", str(2**32), "less than or equal to 4294967295"),
        ("preset", "best", "'faithful', 'balanced' or 'fast'"),
        ("color_match", "lab", "'none', 'wavelet' or 'adain'"),
        ("output_format", "gif", "'png', 'jpeg', 'webp' or 'avif'"),
        ("output_quality", "101", "less than or equal to 100"),
        ("priority", "urgent", "'high', 'normal' or 'low'"),
        ("previews", "perhaps", "valid boolean"),
        ("prompt", "x" * 2001, "at most 2000 characters"),
        ("step", "10", "not permitted"),
        ("a/b~c", "10", "not permitted"),
    ],
)
async def test_a_wrong_field_is_named_by_its_pointer(
    api: httpx.AsyncClient, photo: bytes, field: str, value: str, words: str
) -> None:
    body = {"image": {"base64": base64.b64encode(photo).decode()}, field: value}
    answers = [
        await api.post("/restore", files={"image": photo}, data={field: value}),
        await api.post("/restore", json=body),
    ]

    for answer in answers:
        assert answer.status_code == 422
        problem = answer.json()
        assert problem["code"] == "invalid_request"
        (error,) = problem["errors"]
        assert error["pointer"] == "/" + field.replace("~", "~0").replace("/", "~1")
        assert words in error["message"]
        assert error["message"] in problem["detail"]


async def test_all_wrong_fields_are_named_at_once(api: httpx.AsyncClient, photo: bytes) -> None:
    data = {"steps": "0", "seed": "x", "nonsense": "1"}

    answer = await api.post("/restore", files={"image": photo}, data=data)

    pointers = {error["pointer"] for error in answer.json()["errors"]}
    assert pointers == {"/steps", "/seed", "/nonsense"}


async def test_an_empty_number_of_a_form_is_left_alone_and_an_empty_text_is_kept(
    api: httpx.AsyncClient, photo: bytes
) -> None:
    data = {"steps": "", "preset": "", "negative_prompt": ""}

    answer = await api.post("/restore", files={"image": photo}, data=data)

    options = answer.json()["options"]
    assert (options["steps"], options["preset"]) == (None, None)
    assert options["negative_prompt"] == ""


@pytest.mark.parametrize(
    ("files", "data", "pointer", "code"),
    [
        ([], {"steps": "3"}, "/image", "missing"),
        ([], {"image": "photo.png"}, "/image", "wrong_part"),
        ([("picture", b"x")], {}, "/picture", "wrong_part"),
        ([("image", b"x")], {"steps": ["3", "4"]}, "/steps", "repeated"),
    ],
)
async def test_parts_that_cannot_be_meant_are_named(
    api: httpx.AsyncClient, files: list, data: dict, pointer: str, code: str
) -> None:
    # An unused file makes the client send a multipart form even without files.
    fields = [(name, value) for name, values in data.items() for value in _list(values)]
    parts = [*files, *((name, (None, value)) for name, value in fields)]

    answer = await api.post("/restore", files=parts)

    assert answer.status_code == 422
    (error,) = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == (pointer, code)


def _list(value: object) -> list:
    return value if isinstance(value, list) else [value]


async def test_two_images_are_refused(api: httpx.AsyncClient, photo: bytes) -> None:
    answer = await api.post("/restore", files=[("image", photo), ("image", photo)])

    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert "number of files is 1" in answer.json()["detail"]


async def test_a_form_that_cannot_be_read_is_refused(api: httpx.AsyncClient) -> None:
    headers = {"content-type": "multipart/form-data; boundary=xyz"}

    answer = await api.post("/restore", content=b"no boundary here", headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


@pytest.mark.parametrize("media_type", ["image/png", "application/x-www-form-urlencoded", ""])
async def test_another_media_type_is_refused(api: httpx.AsyncClient, media_type: str) -> None:
    headers = {"content-type": media_type}

    answer = await api.post("/restore", content=b"x", headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media_type")
    assert "multipart/form-data or application/json" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"{", ""),
        (b"", ""),
        (b"[]", ""),
        (b'{"image": ' + b"[" * 5000, ""),
        (b"{}", "/image"),
        (b'{"image": "abc"}', "/image"),
        (b'{"image": {"url": "", "base64": ""}}', "/image/url"),
        (b'{"image": {"base64": "@@@@"}}', "/image/base64"),
        (b'{"image": {"base64": "abc"}}', "/image/base64"),
        ('{"image": {"base64": "äöü="}}'.encode(), "/image/base64"),
        (b'{"image": {"base64": "data:image/png,abcd"}}', "/image/base64"),
        (b'{"image": {"base64": "data:image/png;base64"}}', "/image/base64"),
    ],
)
async def test_bad_json_is_refused_where_it_is_bad(
    api: httpx.AsyncClient, body: bytes, pointer: str
) -> None:
    answer = await api.post(
        "/restore", content=body, headers={"content-type": "application/json; charset=utf-8"}
    )

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert pointer in [error["pointer"] for error in answer.json()["errors"]]


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_over_the_limit_is_refused_before_it_is_read(
    app: FastAPI, chunked: bool
) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(1000):
            sent += 65_536
            yield bytes(65_536)

    headers = {"content-type": "application/json"}
    if not chunked:
        headers["content-length"] = str(65_536_000)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        answer = await client.post("/restore", content=body(), headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (413, "image_too_large")
    assert f"at most {LIMIT_BYTES} bytes" in answer.json()["detail"]
    assert sent < 1_000_000


async def test_a_body_that_drips_in_is_given_up_after_the_deadline(live) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(
        b"POST /restore HTTP/1.1\r\nhost: api\r\ncontent-type: application/json\r\n"
        b'content-length: 1000\r\n\r\n{"image":'
    )

    head, _, body = (await reader.read()).partition(b"\r\n\r\n")  # until the server closes
    writer.close()

    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in head
    problem = json.loads(body)
    assert (problem["code"], problem["retryable"]) == ("request_timeout", True)
    assert "within 0.3 s" in problem["detail"]


async def test_a_body_over_the_limit_is_answered_on_the_wire(live) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", live.port)
    writer.write(
        b"POST /restore HTTP/1.1\r\nhost: api\r\ncontent-type: application/json\r\n"
        b"content-length: 99999999\r\n\r\n"
    )

    head = await reader.readuntil(b"\r\n\r\n")
    writer.close()

    assert head.startswith(b"HTTP/1.1 413 ")


async def test_a_client_that_leaves_during_its_upload_is_no_failure(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    messages = [
        {"type": "http.request", "body": b'{"image"', "more_body": True},
        {"type": "http.disconnect"},
    ]
    answered: list[object] = []

    async def receive() -> dict:
        return messages.pop(0)

    async def send(message: object) -> None:
        answered.append(message)

    app = create_app(settings)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/restore",
        "raw_path": b"/restore",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json")],
    }
    async with app.router.lifespan_context(app):
        await app(scope, receive, send)
        counted = app.state.services.metrics.render(None).decode()

    assert answered == []
    assert 'code="499",method="POST",route="/restore"' in counted
    assert "a request failed" not in caplog.text


@pytest.fixture
async def fetching(
    settings: Settings, photo: bytes
) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """A client of a service that fetches from this machine, and the address of a picture there."""

    async def serve_photo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(photo)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + photo)
        await writer.drain()
        writer.close()

    target = await asyncio.start_server(serve_photo, "127.0.0.1", 0)
    app = create_app(settings.model_copy(update={"fetch_private_networks": True}))
    transport = httpx.ASGITransport(app)
    async with (
        target,
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://api") as client,
    ):
        yield client, f"http://127.0.0.1:{target.sockets[0].getsockname()[1]}/photo.png"


@pytest.mark.parametrize("form", ["multipart", "json"])
async def test_a_picture_is_fetched_from_its_address(
    fetching, photo: bytes, redis: Redis, form: str
) -> None:
    client, address = fetching
    if form == "json":
        answer = await client.post("/restore", json={"image": {"url": address}, "seed": 3})
    else:
        parts = {"image_url": (None, address), "seed": (None, "3")}
        answer = await client.post("/restore", files=parts)
    assert answer.status_code == 202, answer.text
    assert await redis.get(keys.source(answer.json()["id"])) == photo
    assert answer.json()["options"]["seed"] == 3


async def test_private_networks_are_not_fetched_from(api: httpx.AsyncClient) -> None:
    answer = await api.post("/restore", json={"image": {"url": "http://127.0.0.1:8080/"}})
    assert_problem(answer, 422, "fetch_refused")


async def test_a_picture_that_cannot_be_fetched_may_be_tried_again(fetching) -> None:
    client, _ = fetching
    answer = await client.post("/restore", json={"image": {"url": "http://127.0.0.1:9/"}})
    assert assert_problem(answer, 422, "fetch_failed")["retryable"] is True


@pytest.mark.parametrize("url", ["", "http://example.org/" + "a" * 2048])
async def test_an_address_of_a_wrong_length_is_named(api: httpx.AsyncClient, url: str) -> None:
    as_json = await api.post("/restore", json={"image": {"url": url}})
    as_form = await api.post("/restore", files={"image_url": (None, url)})
    assert as_json.json()["errors"][0]["pointer"] == "/image/url"
    assert as_form.status_code == 422
