"""Reading a submission: a multipart form or JSON becomes checked options and a checked image."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial

from anyio import to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from service.api.problems import invalid, pointer
from service.api.state import Services
from service.errors import FetchRefused, FieldError, ImageTooLarge, InvalidRequest
from service.guarded_fetch import MAX_URL_CHARS, check_url, fetch_picture
from service.images import inspect
from service.jobs import RestoreOptions, SourceInfo
from service.work import Submission

MULTIPART = "multipart/form-data"
JSON = "application/json"

_IMAGE = "image"
_IMAGE_URL = "image_url"
# Fields of a form whose text is JSON.
_OBJECTS = frozenset({"metadata", "webhook"})
MAX_KEY_CHARS = 255
NO_SOURCE = SourceInfo(width=0, height=0, content_type="", bytes=0, sha256="")
# An empty text is a value; an empty number is a form field left alone.
_TEXTS = frozenset({"prompt", "negative_prompt"})
_FIELD_BYTES = 64 * 1024
_MAX_FIELDS = 64
_ENVELOPE_BYTES = 256 * 1024  # room for everything but the image
_BLANKS = dict.fromkeys(map(ord, " \t\r\n"))


class InlineImage(BaseModel):
    """The picture of a JSON submission: either inside it, or where to fetch it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    base64: str | None = Field(
        default=None, description="Base64 of the file, plain or as a `data:` URL."
    )
    url: str | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_URL_CHARS,
        description="http:// or https:// address.",
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> InlineImage:
        if (self.base64 is None) == (self.url is None):
            raise ValueError("must have either base64 or url")
        return self


class _Fetched(BaseModel):
    image_url: str = Field(min_length=1, max_length=MAX_URL_CHARS)


class RestoreBody(RestoreOptions):
    """The JSON form of a submission."""

    image: InlineImage


@dataclass(frozen=True, slots=True)
class Address:
    """Where a picture is to be fetched."""

    url: str


_Picture = bytes | Address
_Reader = Callable[[Request, Services], Awaitable[tuple[RestoreOptions, _Picture]]]


async def read_submission(request: Request, services: Services, caller: str) -> Submission:
    """Read and check the whole request; a picture that it names by address is fetched.

    Raises InvalidRequest, InvalidImage, ImageTooLarge, UnsupportedImage, FetchRefused, FetchFailed,
    or HTTPException for a body that is too slow (408), of another media type (415) or no form at
    all (400).
    """
    key = idempotency_key(request)
    read = _reader_of(request)
    limited = bounded(request, services.limits.max_bytes)
    try:
        async with asyncio.timeout(services.timing.body_s):
            options, picture = await read(limited, services)
    except TimeoutError:
        detail = f"the request body did not arrive within {services.timing.body_s:g} s"
        raise HTTPException(408, detail, {"Connection": "close"}) from None
    if isinstance(picture, Address):
        image = await fetch_picture(services.fetch, picture.url, services.limits.max_bytes)
    else:
        image = picture
    return await checked(services, Submission(options, NO_SOURCE, image, caller, key))


async def checked(services: Services, asked: Submission) -> Submission:
    """The submission with its picture looked at, and the model that will restore it.

    Raises InvalidRequest for a webhook that is never called, InvalidImage, ImageTooLarge,
    UnsupportedImage, or ServerUnavailable.
    """
    if asked.options.webhook is not None:
        check_hook(services, asked.options.webhook.url, "/webhook/url")
    source = await to_thread.run_sync(
        inspect, asked.image, services.limits, limiter=services.decoders
    )
    models = await services.queue.fingerprints()
    fingerprint = models.pop() if len(models) == 1 else ""
    return replace(asked, source=source, fingerprint=fingerprint)


def check_hook(services: Services, url: str, pointer: str) -> str:
    """The secret to sign with. Raises InvalidRequest for an address that is never called."""
    secret = services.settings.webhook_secret
    said = "webhooks need a webhook_secret, and this service has none" if secret is None else ""
    try:
        check_url(url, allow_private=services.settings.fetch_private_networks)
    except FetchRefused as refusal:
        said = said or refusal.message
    if secret is None or said:
        field = FieldError(pointer=pointer, code="webhook", message=said)
        raise InvalidRequest(f"{pointer}: {said}", [field])
    return secret


def idempotency_key(request: Request) -> str | None:
    """The `Idempotency-Key` header. Raises InvalidRequest for one that is empty or too long."""
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= MAX_KEY_CHARS:
        said = f"has {len(key)} characters; it must have 1 to {MAX_KEY_CHARS}"
        field = FieldError(pointer="/idempotency-key", code="length", message=said)
        raise InvalidRequest(f"the Idempotency-Key {said}", [field])
    return key


def _reader_of(request: Request) -> _Reader:
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    readers: dict[str, _Reader] = {MULTIPART: _read_form, JSON: _read_json}
    if media_type not in readers:
        raise HTTPException(
            415, f"the content type is {media_type!r}; it must be {MULTIPART} or {JSON}"
        )
    return readers[media_type]


def bounded(request: Request, image_bytes: int) -> Request:
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


async def _read_form(request: Request, services: Services) -> tuple[RestoreOptions, _Picture]:
    async with request.form(
        max_files=1, max_fields=_MAX_FIELDS, max_part_size=_FIELD_BYTES
    ) as form:
        upload, fields = _parts_of(form)
        address = fields.pop(_IMAGE_URL, None)
        try:
            options = RestoreOptions.model_validate(fields)
            if address is not None:
                return options, Address(_Fetched(image_url=str(address)).image_url)
        except ValidationError as error:
            raise invalid(error.errors(include_context=False)) from None
        assert upload is not None, "a form has a file or an address"
        services.limits.check_bytes(upload.size or 0)
        return options, await upload.read()


def _parts_of(form: FormData) -> tuple[UploadFile | None, dict[str, object]]:
    """The file and the other fields. Raises InvalidRequest for parts that cannot be meant."""
    fields: dict[str, object] = {}
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
        elif name in _OBJECTS and value:
            try:
                fields[name] = json.loads(value)
            except ValueError as error:
                words = f"is not JSON: {error}"
                errors.append(FieldError(pointer=pointer(name), code="json", message=words))
        elif value or name in _TEXTS or name not in RestoreOptions.model_fields:
            fields[name] = value
    if (upload is None) == (_IMAGE_URL not in fields) and not errors:
        words = "the file part is missing" if upload is None else "is there beside image_url"
        code = "missing" if upload is None else "repeated"
        errors.append(FieldError(pointer=pointer(_IMAGE), code=code, message=words))
    if errors:
        said = "; ".join(f"{error['pointer']}: {error['message']}" for error in errors)
        raise InvalidRequest(said, errors)
    return upload, fields


async def _read_json(request: Request, services: Services) -> tuple[RestoreOptions, _Picture]:
    body = await request.body()
    # Parsing tens of megabytes would hold up every other client of this process.
    return await to_thread.run_sync(partial(_parse_json, body), limiter=services.decoders)


def _parse_json(text: bytes) -> tuple[RestoreOptions, _Picture]:
    try:
        body = RestoreBody.model_validate_json(text)
    except ValidationError as error:
        raise invalid(error.errors(include_input=False, include_url=False)) from None
    options = RestoreOptions.model_validate(
        body.model_dump(exclude={_IMAGE}, include=body.model_fields_set)
    )
    if body.image.url is not None:
        return options, Address(body.image.url)
    return options, decode_base64(body.image.base64 or "")


def decode_base64(text: str) -> bytes:
    """The bytes of base64, plain or in a `data:` URL. Raises InvalidRequest."""
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
