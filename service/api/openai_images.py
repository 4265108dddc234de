"""OpenAI's image edits on top of jobs, for clients that speak nothing else.

`POST /v1/images/edits` with `stream=true` sends true previews of the running restoration.
"""

from __future__ import annotations

import base64
import json
import math
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile

from service.api.admission import admit
from service.api.answers import finished_picture
from service.api.callers import Caller
from service.api.events import streamed
from service.api.following import counts, following, wait_for_end
from service.api.openai_errors import body as error_body
from service.api.openai_errors import refusals
from service.api.problems import invalid
from service.api.state import Services, Wired
from service.api.submission import NO_SOURCE, bounded, checked
from service.errors import FieldError, InvalidRequest, NotFound, ServiceError
from service.jobs import TERMINAL, Job, Preset, RestoreOptions
from service.work import Submission

router = APIRouter(prefix="/v1", tags=["OpenAI"])

_PARTS: Final = 40
_PART_BYTES: Final = 64 * 1024
_MAX_PARTIAL_IMAGES: Final = 3
_PRESETS: Final[dict[str, Preset | None]] = {
    "auto": None,
    "standard": None,
    "low": "fast",
    "medium": "balanced",
    "high": "faithful",
}
_IMAGES: Final = ("image", "image[]")
_LONGEST_S: Final = 3600.0


class EditForm(BaseModel):
    """The fields of an edit, as OpenAI documents them; `seed`, `steps` and `preset` are ours."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str = ""
    model: str | None = None
    n: Literal["1"] = "1"
    size: str = "auto"
    quality: Literal["auto", "standard", "low", "medium", "high"] = "auto"
    background: Literal["auto", "opaque", "transparent"] = "auto"
    input_fidelity: str | None = None
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: int = Field(default=100, ge=1, le=100)
    response_format: Literal["b64_json"] = "b64_json"
    stream: bool = False
    partial_images: int = Field(default=0, ge=0, le=_MAX_PARTIAL_IMAGES)
    moderation: str | None = None
    user: str | None = None
    seed: int | None = None
    steps: int | None = None
    preset: Preset | None = None

    def options(self) -> RestoreOptions:
        """What this asks of a restoration. Raises pydantic's ValidationError."""
        return RestoreOptions(
            preset=self.preset or _PRESETS[self.quality],
            prompt=self.prompt or None,
            steps=self.steps,
            seed=self.seed,
            output_format=self.output_format,
            output_quality=self.output_compression,
            previews=self.stream and self.partial_images > 0,
            on_disconnect="cancel",
        )


@dataclass(frozen=True, slots=True)
class _Edit:
    form: EditForm
    job: Job

    def facts(self) -> dict[str, Any]:
        """What every answer says of the picture."""
        form, source = self.form, self.job.source
        return {
            "size": f"{source.width}x{source.height}",
            "quality": form.quality,
            "background": form.background,
            "output_format": form.output_format,
        }


@router.post(
    "/images/edits",
    response_class=Response,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {
                            "image": {"type": "string", "format": "binary"},
                            **EditForm.model_json_schema()["properties"],
                        },
                        "required": ["image"],
                    }
                }
            },
        }
    },
    responses={
        200: {
            "description": (
                "`created` and `data[0].b64_json`; with `stream=true` the events "
                "`image_edit.partial_image` and `image_edit.completed`."
            ),
            "content": {
                "application/json": {"schema": {"type": "object"}},
                "text/event-stream": {"schema": {"type": "string"}},
            },
        },
        **refusals(400, 401, 404, 429, 500, 503),
    },
)
async def edit(request: Request, services: Wired, caller: Caller) -> Response:
    """Restore one picture as OpenAI's clients ask for it; errors come in their shape."""
    form, image = await _read(bounded(request, services.limits.max_bytes), services)
    try:
        options = form.options()
    except ValidationError as error:
        raise invalid(error.errors(include_context=False)) from None
    asked = await checked(services, Submission(options, NO_SOURCE, image, caller))
    source = asked.source
    if form.size not in ("auto", "", f"{source.width}x{source.height}"):
        said = f"is {form.size!r}; a restoration keeps the size of its picture, "
        raise _wrong("size", f"{said}{source.width}x{source.height} (or 'auto')")
    await _check_model(services, form.model)
    services.hub.check_room()
    found = _Edit(form, (await admit(services, asked)).job)
    if form.stream:
        return streamed(_events(services, found), services.timing.send_s)
    if found.job.status not in TERMINAL:
        await wait_for_end(request, services, found.job, _LONGEST_S)
    answer = {
        "created": math.floor(time.time()),
        "data": [{"b64_json": await _result(services, found.job.id)}],
    }
    text = json.dumps({**answer, **found.facts(), "usage": _USAGE})
    return Response(text, media_type="application/json")


# Their clients require the numbers; we count no tokens.
_USAGE: Final = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}


async def _read(request: Request, services: Services) -> tuple[EditForm, bytes]:
    fields: dict[str, str] = {}
    images: list[bytes] = []
    async with request.form(max_files=2, max_fields=_PARTS, max_part_size=_PART_BYTES) as form:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name not in _IMAGES:
                    raise _wrong(name, "is not supported; send one picture as image")
                services.limits.check_bytes(value.size or 0)
                images.append(await value.read())
            elif value or name == "prompt":
                fields[name] = value
    if len(images) != 1:
        raise _wrong("image", f"{len(images)} pictures were sent; it must be one file")
    try:
        return EditForm.model_validate(fields), images[0]
    except ValidationError as error:
        raise invalid(error.errors(include_context=False)) from None


async def _check_model(services: Services, name: str | None) -> None:
    """Any name of OpenAI's own passes, as many clients cannot be told another one."""
    known = await _models(services)
    if name and name not in known and not name.startswith(("gpt-image", "dall-e", "chatgpt-image")):
        raise NotFound(f"no model {name!r}; there is {', '.join(known) or 'none ready'}")


async def _result(services: Services, job_id: str) -> str:
    """The finished picture as base64. Raises JobFailed, ResultGone, ServerUnavailable."""
    return base64.b64encode(await finished_picture(services, job_id)).decode()


async def _events(services: Services, asked: _Edit) -> AsyncIterator[bytes]:
    job, wanted = asked.job, asked.form.partial_images
    facts = {"created_at": math.floor(time.time()), **asked.facts()}
    sent = 0
    try:
        async with following(services, job.id, counts(job)):
            async for item in services.hub.follow(job.id, 0, services.timing.heartbeat_s):
                if item.event is None:
                    yield item.sse  # a comment, so that nobody thinks we are dead
                elif item.frame is not None and _due(item.event, sent, wanted):
                    picture = base64.b64encode(item.frame).decode()
                    # A preview has the format that it has, whatever the result's will be.
                    fields = {"b64_json": picture, "partial_image_index": sent, **facts}
                    fields["output_format"] = item.event["content_type"].removeprefix("image/")
                    sent += 1
                    yield _event("image_edit.partial_image", fields)
        fields = {"b64_json": await _result(services, job.id), "usage": _USAGE, **facts}
        yield _event("image_edit.completed", fields)
    except ServiceError as error:
        problem = {"status": error.status, "detail": error.message, "code": error.code}
        yield f"event: error\ndata: {json.dumps(error_body(problem))}\n\n".encode()


def _due(event: dict[str, Any], sent: int, wanted: int) -> bool:
    """Whether this preview is the next of so many, evenly spread over the run."""
    return sent < wanted and event["step"] * (wanted + 1) >= (sent + 1) * event["steps"]


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()


class Model(BaseModel):
    """A model as OpenAI's clients list them."""

    model_config = ConfigDict(frozen=True)

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "instantir"


class Models(BaseModel):
    """The models that ready workers serve."""

    model_config = ConfigDict(frozen=True)

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("/models", responses=refusals(401, 503))
async def list_models(services: Wired, caller: Caller) -> Models:
    """The models that ready workers serve, as OpenAI's clients list them."""
    return Models(data=[Model(id=name) for name in await _models(services)])


@router.get(
    "/models/{model:path}",
    responses=refusals(401, 404, 503),
)
async def one_model(model: str, services: Wired, caller: Caller) -> Model:
    """One of them."""
    if model not in await _models(services):
        raise NotFound(f"no model {model!r}")
    return Model(id=model)


async def _models(services: Services) -> list[str]:
    beats = await services.queue.workers()
    return sorted({str(beat["model"]) for beat in beats.values() if beat.get("ready")})


def _wrong(name: str, words: str) -> InvalidRequest:
    field = FieldError(pointer=f"/{name}", code="unsupported", message=words)
    return InvalidRequest(f"{name} {words}", [field])
