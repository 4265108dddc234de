"""Reading a submission: a multipart form or JSON becomes checked options and a checked image."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from anyio import to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from service.api.problems import invalid, pointer
from service.api.state import Services
from service.errors import FieldError, ImageTooLarge, InvalidRequest
from service.images import inspect
from service.jobs import RestoreOptions, SourceInfo

MULTIPART = "multipart/form-data"
JSON = "application/json"

_IMAGE = "image"
# An empty text is a value; an empty number is a form field left alone.
_TEXTS = frozenset({"prompt", "negative_prompt"})
_FIELD_BYTES = 64 * 1024
_MAX_FIELDS = 64
_ENVELOPE_BYTES = 256 * 1024  # room for everything but the image
_Reader = Callable[[Request, Services], Awaitable[tuple[RestoreOptions, bytes]]]
_BLANKS = dict.fromkeys(map(ord, " \t\r\n"))


class ImageBase64(BaseModel):
    """A picture inside JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base64: str = Field(description="Base64 of the file, plain or as a `data:` URL.")


class RestoreBody(RestoreOptions):
    """The JSON form of a submission."""

    image: ImageBase64


@dataclass(frozen=True, slots=True)
class Submission:
    """A request to restore, checked."""

    options: RestoreOptions
    source: SourceInfo
    image: bytes


async def read_submission(request: Request, services: Services) -> Submission:
    """Read and check the whole request.

    Raises InvalidRequest, InvalidImage, ImageTooLarge, UnsupportedImage, or HTTPException for a
    body that is too slow (408), of another media type (415) or no form at all (400).
    """
    read = _reader_of(request)
    bounded = _bounded(request, services.limits.max_bytes)
    try:
        async with asyncio.timeout(services.timing.body_s):
            options, image = await read(bounded, services)
    except TimeoutError:
        detail = f"the request body did not arrive within {services.timing.body_s:g} s"
        raise HTTPException(408, detail, {"Connection": "close"}) from None
    source = await to_thread.run_sync(inspect, image, services.limits, limiter=services.decoders)
    return Submission(options, source, image)


def _reader_of(request: Request) -> _Reader:
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    readers: dict[str, _Reader] = {MULTIPART: _read_form, JSON: _read_json}
    if media_type not in readers:
        raise HTTPException(
            415, f"the content type is {media_type!r}; it must be {MULTIPART} or {JSON}"
        )
    return readers[media_type]


def _bounded(request: Request, image_bytes: int) -> Request:
    """The same request, whose body refuses to grow past what the largest image needs."""
    # Base64 spends four characters on three bytes.
    limit = image_bytes * 4 // 3 + _ENVELOPE_BYTES
    refusal = ImageTooLarge(
        f"the request body exceeds {limit} bytes; an image may have at most {image_bytes} bytes"
    )
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        raise refusal
    seen = 0

    async def receive() -> Message:
        nonlocal seen
        message = await request.receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise refusal
        return message

    return Request(request.scope, receive)


async def _read_form(request: Request, services: Services) -> tuple[RestoreOptions, bytes]:
    async with request.form(
        max_files=1, max_fields=_MAX_FIELDS, max_part_size=_FIELD_BYTES
    ) as form:
        upload, fields = _parts_of(form)
        try:
            options = RestoreOptions.model_validate(fields)
        except ValidationError as error:
            raise invalid(error.errors()) from None
        services.limits.check_bytes(upload.size or 0)
        return options, await upload.read()


def _parts_of(form: FormData) -> tuple[UploadFile, dict[str, str]]:
    """The file and the other fields. Raises InvalidRequest for parts that cannot be meant."""
    fields: dict[str, str] = {}
    upload: UploadFile | None = None
    errors: list[FieldError] = []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile) != (name == _IMAGE):
            words = "must be sent as a file" if name == _IMAGE else "must not be a file"
            errors.append(FieldError(pointer=pointer(name), code="wrong_part", message=words))
        elif isinstance(value, UploadFile):
            upload = value
        elif name in fields:
            words = "is given more than once"
            errors.append(FieldError(pointer=pointer(name), code="repeated", message=words))
        elif value or name in _TEXTS or name not in RestoreOptions.model_fields:
            fields[name] = value
    if upload is None and not errors:
        words = "the file part is missing"
        errors.append(FieldError(pointer=pointer(_IMAGE), code="missing", message=words))
    if upload is None or errors:
        said = "; ".join(f"{error['pointer']}: {error['message']}" for error in errors)
        raise InvalidRequest(said, errors)
    return upload, fields


async def _read_json(request: Request, services: Services) -> tuple[RestoreOptions, bytes]:
    body = await request.body()
    # Parsing tens of megabytes would hold up every other client of this process.
    return await to_thread.run_sync(partial(_parse_json, body), limiter=services.decoders)


def _parse_json(text: bytes) -> tuple[RestoreOptions, bytes]:
    try:
        body = RestoreBody.model_validate_json(text)
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False)) from None
    options = RestoreOptions.model_validate(body.model_dump(exclude={_IMAGE}))
    return options, _decode_base64(body.image.base64)


def _decode_base64(text: str) -> bytes:
    if text.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma or not head.endswith(";base64"):
            raise _bad_base64("a data: URL must read data:MEDIA-TYPE;base64,DATA")
    try:
        return base64.b64decode(text.translate(_BLANKS), validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad_base64(f"not base64: {error}") from None


def _bad_base64(message: str) -> InvalidRequest:
    where = pointer(_IMAGE, "base64")
    field = FieldError(pointer=where, code="base64", message=message)
    return InvalidRequest(f"{where}: {message}", [field])
